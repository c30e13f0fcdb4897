"""What frozen towers say of pictures and sentences, computed once and kept on disk.

Shapes: n photographs, V views of each, D width of the image tower, C captions of each.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from beholder.models.bert import Bert
from beholder.models.bridge import image_tokens
from beholder.models.efficientnet_lite import EfficientNetLite
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.runtime.pipeline import batches, map_ahead
from beholder.text.tokenizer import Tokenizer
from beholder.training.augmentation import views_of


def picture_features(
    tower: EfficientNetLite, preprocessing: Preprocessing, paths: Sequence[Path], views: int, kept: Path
) -> np.ndarray:
    """Pooled features (n, V, D), float32, of every view; each photograph's own are kept in the folder ``kept``.

    Interrupted, it goes on where it stopped. The views of a photograph depend on its name alone.
    """
    return np.stack(look(lambda pixels: tower(pixels).pooled, preprocessing, paths, views, kept)).astype(np.float32)


def grid_features(
    tower: EfficientNetLite, preprocessing: Preprocessing, paths: Sequence[Path], views: int, kept: Path
) -> list[np.ndarray]:
    """For each photograph its grid features (V, N, D), float16, kept as those of ``picture_features``."""
    return look(lambda pixels: image_tokens(tower, pixels), preprocessing, paths, views, kept)


def look(
    tower: Callable[[torch.Tensor], torch.Tensor],
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    views: int,
    kept: Path,
) -> list[np.ndarray]:
    """What the tower says of each photograph's views, in half precision, computed once and kept in a folder."""
    kept.mkdir(parents=True, exist_ok=True)
    missing = [path for path in paths if not (kept / f"{path.name}.npy").exists()]

    def prepare(path: Path) -> tuple[Path, np.ndarray]:
        generator = np.random.default_rng(list(path.name.encode()))
        made = [to_pixels(view, preprocessing) for view in views_of(read_picture(path), views, generator)]
        return path, np.stack(made)

    with torch.inference_mode():
        for path, pixels in map_ahead(prepare, missing, ahead=4):
            said = tower(torch.from_numpy(pixels)).numpy()
            aside = kept / f".{path.name}.npy"
            np.save(aside, said.astype(np.float16))
            aside.replace(kept / f"{path.name}.npy")
    return [np.load(kept / f"{path.name}.npy") for path in paths]


def sentence_features(tower: Bert, tokenizer: Tokenizer, sentences: Sequence[str]) -> np.ndarray:
    """Pooled features (len(sentences), D), float32."""
    rows = []
    with torch.inference_mode():
        for batch in batches(sentences, 64):
            tokens = tokenizer(batch)
            rows.append(tower(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)).pooled.numpy())
    return np.concatenate(rows)
