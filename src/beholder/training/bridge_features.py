"""Features of the frozen image tower, computed once and stored in files.

Shapes: V views of an image, N tokens of it, Di their width.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import nn

from beholder import files
from beholder.errors import PictureError
from beholder.models.bridge import image_tokens
from beholder.models.efficientnet_lite import EfficientNetLite
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.runtime.pipeline import map_ahead
from beholder.training.augmentation import views_of
from beholder.training.examples import key_of
from beholder.training.metrics_logger import Row


class FeatureFiles(Sequence[np.ndarray]):
    """Features (V, N, Di), float16, of the image of each file; only those that are accessed are read."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, row: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        """Return the features of an image, or of several."""
        if isinstance(row, slice):
            return FeatureFiles(self.paths[row])
        return np.load(self.paths[row], mmap_mode="r")


def compute_features(
    tower: nn.Module,
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    views: int,
    folder: Path,
    device: torch.device,
    on_skip: Callable[[str, str], None],
    report: Callable[[Row], None],
) -> dict[Path, Path]:
    """Compute the features of every image that can be read, and return their files: image → features.

    After an interruption, the same call continues. The views of an image depend on its path alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_unfinished(folder)
    targets = {path: folder / f"{key_of(str(path)):016x}-{views}.npy" for path in paths}
    missing = [path for path in paths if not targets[path].exists()]

    def prepare(path: Path) -> tuple[Path, np.ndarray | None]:
        generator = np.random.default_rng(key_of(str(path)))
        try:
            picture = read_picture(path, reduce_to=2 * preprocessing.shorter_side)
        except PictureError as error:
            on_skip(error.name, error.reason)
            return path, None
        return path, np.stack([to_pixels(view, preprocessing) for view in views_of(picture, views, generator)])

    fast = deepcopy(tower)
    fast = (fast.folded() if isinstance(fast, EfficientNetLite) else fast).to(device)
    with torch.inference_mode():
        for number, (path, pixels) in enumerate(map_ahead(prepare, missing, ahead=8), start=1):
            if pixels is not None:
                features = image_tokens(fast, torch.from_numpy(pixels).to(device)).cpu().numpy()
                with files.atomic_file(targets[path], durable=False) as scratch:
                    np.save(scratch, features.astype(np.float16))
            if number % 100 == 0 or number == len(missing):
                report({"pictures_looked_at": number, "pictures": len(missing)})
    return {path: file for path, file in targets.items() if file.exists()}
