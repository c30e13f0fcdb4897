"""Features of frozen encoders, computed once and cached on disk.

Shapes: n photographs, V views of each, D width of the image encoder, C captions of each.
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


def image_features(
    tower: EfficientNetLite, preprocessing: Preprocessing, paths: Sequence[Path], views: int, cache: Path
) -> np.ndarray:
    """Return pooled features (n, V, D), float32, of every view, cached in the folder ``cache``.

    An interrupted run resumes. The views of a photograph depend on its file name alone.
    """
    pooled = extract_features(lambda pixels: tower(pixels).pooled, preprocessing, paths, views, cache)
    return np.stack(pooled).astype(np.float32)


def grid_features(
    tower: EfficientNetLite, preprocessing: Preprocessing, paths: Sequence[Path], views: int, cache: Path
) -> list[np.ndarray]:
    """Return each photograph's grid features (V, N, D), float16, cached as by `image_features`."""
    return extract_features(lambda pixels: image_tokens(tower, pixels), preprocessing, paths, views, cache)


def extract_features(
    tower: Callable[[torch.Tensor], torch.Tensor],
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    views: int,
    cache: Path,
) -> list[np.ndarray]:
    """Run an encoder on every view of every photograph, once, and cache its output in half precision."""
    cache.mkdir(parents=True, exist_ok=True)
    missing = [path for path in paths if not (cache / f"{path.name}.npy").exists()]

    def prepare(path: Path) -> tuple[Path, np.ndarray]:
        generator = np.random.default_rng(list(path.name.encode()))
        pixels = [to_pixels(view, preprocessing) for view in views_of(read_picture(path), views, generator)]
        return path, np.stack(pixels)

    with torch.inference_mode():
        for path, pixels in map_ahead(prepare, missing, ahead=4):
            features = tower(torch.from_numpy(pixels)).numpy()
            aside = cache / f".{path.name}.npy"
            np.save(aside, features.astype(np.float16))
            aside.replace(cache / f"{path.name}.npy")
    return [np.load(cache / f"{path.name}.npy") for path in paths]


def text_features(tower: Bert, tokenizer: Tokenizer, sentences: Sequence[str]) -> np.ndarray:
    """Return pooled text features (len(sentences), D), float32."""
    rows = []
    with torch.inference_mode():
        for batch in batches(sentences, 64):
            tokens = tokenizer(batch)
            rows.append(tower(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)).pooled.numpy())
    return np.concatenate(rows)
