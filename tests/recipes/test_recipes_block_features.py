"""Cached inputs of the image encoder's last block."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beholder.models.bridge import image_tokens
from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.weights import mini
from block_features import block_features, cells

SETTINGS = EfficientNetLiteSettings(width_scale=0.2, depth_scale=0.4, classes=0)
PREPROCESSING: Preprocessing = mini.PREPROCESSING


@pytest.fixture
def tower() -> EfficientNetLite:
    torch.manual_seed(0)
    return EfficientNetLite(SETTINGS).eval().requires_grad_(False)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
        found.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).resize((80, 60)).save(found[-1])
    return found


def test_cells_of_cached_features_are_those_of_the_whole_network(
    tower: EfficientNetLite, paths: list[Path], tmp_path: Path
) -> None:
    cached = block_features(tower, PREPROCESSING, paths, tmp_path / "cache")
    pixels = torch.stack([torch.from_numpy(to_pixels(read_picture(path), PREPROCESSING)) for path in paths])
    whole = image_tokens(tower, pixels)
    again = cells(tower, torch.from_numpy(np.stack([cached[row] for row in range(3)]).astype(np.float32)))
    torch.testing.assert_close(again, whole, atol=2e-2, rtol=2e-2)


def test_only_what_is_missing_is_computed_and_the_order_is_the_callers(
    tower: EfficientNetLite, paths: list[Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    before = np.stack([*block_features(tower, PREPROCESSING, paths, cache)])
    array = np.load(cache / "mid0.npy", mmap_mode="r+")
    array[1] = 0  # as after an interruption
    array[2] = 7
    array.flush()
    after = block_features(tower, PREPROCESSING, [paths[2], paths[1]], cache)
    assert len(after) == 2 and (after[0] == 7).all()
    assert np.array_equal(after[1], before[1])
