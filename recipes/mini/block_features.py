"""Inputs of the image encoder's last block, cached once for a whole collection in one file.

They take a sixth of the space of its output, and the last block costs next to nothing, so a training step never reads a
picture.

Shapes: n pictures, C channels of the last block's input, h and w cells, N = h w, D width of the image encoder.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from beholder.models.efficientnet_lite import EfficientNetLite
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.runtime.pipeline import batches, map_ahead

BATCH = 16


def block_features(
    tower: EfficientNetLite, preprocessing: Preprocessing, paths: Sequence[Path], cache: Path
) -> np.ndarray:
    """Return the input of the last block (n, C, h, w), float16, mapped from ``cache/mid0.npy``.

    The names are kept beside it. An interrupted run resumes; a row of zeros has not been computed yet.
    """
    cache.mkdir(parents=True, exist_ok=True)
    names = [path.name for path in paths]
    file, name_file = cache / "mid0.npy", cache / "names.json"
    if file.is_file():
        known = {Path(name).name: row for row, name in enumerate(json.loads(name_file.read_text("utf-8")))}
        features = np.load(file, mmap_mode="r+")
        rows = [known[name] for name in names]
    else:
        name_file.write_text(json.dumps(names), "utf-8")
        with torch.inference_mode():
            blank = block_input(tower, torch.from_numpy(to_pixels(read_picture(paths[0]), preprocessing))[None])
        features = np.lib.format.open_memmap(file, "w+", np.float16, (len(names), *blank.shape[1:]))
        rows = list(range(len(names)))
    missing = [(row, path) for row, path in zip(rows, paths, strict=True) if not features[row].any()]

    def prepare(batch: Sequence[tuple[int, Path]]) -> tuple[list[int], np.ndarray]:
        pixels = [to_pixels(read_picture(path), preprocessing) for _, path in batch]
        return [row for row, _ in batch], np.stack(pixels)

    with torch.inference_mode():
        for computed, pixels in map_ahead(prepare, list(batches(missing, BATCH)), ahead=2):
            features[computed] = block_input(tower, torch.from_numpy(pixels)).numpy()
    return RowsOf(features, rows)


class RowsOf(Sequence[np.ndarray]):
    """Rows of an array in an order of one's own, without a copy."""

    def __init__(self, array: np.ndarray, rows: Sequence[int]):
        self.array = array
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        return self.array[self.rows[number]]


def block_input(tower: EfficientNetLite, pixels: Tensor) -> Tensor:
    """Return the input of the last block: pixels (B, 3, H, W) → (B, C, h, w)."""
    features = F.relu6(tower.stem(pixels))
    for block in tower.blocks[:-1]:
        features = block(features)
    return features


def cells(tower: EfficientNetLite, block_inputs: Tensor) -> Tensor:
    """Return the cells of the feature map from the last block's input: (B, C, h, w) → (B, N, D)."""
    return F.relu6(tower.head(tower.blocks[-1](block_inputs))).flatten(2).transpose(1, 2)
