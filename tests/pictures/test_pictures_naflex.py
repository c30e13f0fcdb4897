"""Patches of variable resolution, by hand-worked cases; tests/parity compares them with transformers."""

import numpy as np
import pytest
from PIL import Image

from beholder.errors import InvalidSetting
from beholder.pictures.naflex import NaFlexPreprocessing, mark_patches, spatial_shapes, to_patches
from beholder.pictures.preprocess import read_preprocessing
from beholder.pictures.transform import Preprocessing

SMALL = NaFlexPreprocessing(patch_size=4, max_num_patches=12)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(30, 30, (3, 3)), (40, 30, (3, 4)), (30, 40, (4, 3)), (400, 4, (1, 12)), (1, 999, (12, 1)), (1, 1, (3, 3))],
)
def test_as_many_patches_as_fit_keep_the_aspect_ratio(width: int, height: int, grid: tuple[int, int]) -> None:
    assert SMALL.patch_grid(width, height) == grid


def test_patches_lie_row_by_row_with_their_marks_and_padding_is_zero() -> None:
    colors = np.zeros((8, 12, 3), np.uint8)
    for number in range(6):
        row, column = divmod(number, 3)
        colors[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 40 * number
    settings = NaFlexPreprocessing(4, 8, mean=(0, 0, 0), std=(1 / 255,) * 3)
    patches = to_patches(Image.fromarray(colors), settings)
    assert patches.shape == (8, 4 * 4 * 3 + 2) and patches.dtype == np.float32
    np.testing.assert_allclose(patches[:, :-2].mean(1), [0, 40, 80, 120, 160, 200, 0, 0], atol=1e-3)
    assert patches[:, -2].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert patches[:, -1].tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    assert not patches[6:].any()


def test_the_shape_of_a_grid_is_read_from_its_marks() -> None:
    marked = np.stack([mark_patches(np.ones((count, 3)), columns, 12) for count, columns in ((12, 12), (6, 2), (1, 1))])
    assert spatial_shapes(marked).tolist() == [[1, 12], [3, 2], [1, 1]]


@pytest.mark.parametrize(
    "setting",
    [
        {"patch_size": 0},
        {"max_num_patches": 2.5},
        {"interpolation": "cubic"},
        {"mean": (1, 2)},
        {"std": (1, 0, 1)},
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(setting))):
        NaFlexPreprocessing(**setting)  # type: ignore[arg-type]


def test_a_settings_file_tells_which_kind_it_describes() -> None:
    assert read_preprocessing({"patch_size": 4, "max_num_patches": 12}) == SMALL
    assert read_preprocessing({"height": 8, "width": 8}) == Preprocessing(8, 8)
    with pytest.raises(TypeError):
        read_preprocessing({"patch_size": 4})
