"""to_pixels and to_pil_image on hand-computed cases; parity with other implementations is in tests/parity."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from beholder.errors import InvalidSetting, NotFinite
from beholder.pictures.transform import ExtremeShapeWarning, Preprocessing, to_pil_image, to_pixels

CLIP = Preprocessing(
    224, 224, resize=224, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width + height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _columns(width: int, height: int) -> Image.Image:
    """Draw a picture whose pixels encode their column and row, so that a crop reveals its position."""
    array = np.zeros((height, width, 3), np.uint8)
    array[..., 0] = np.arange(width)
    array[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(array)


def _preprocessed(picture: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    return np.asarray(to_pil_image(to_pixels(picture, preprocessing), preprocessing))


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_pixels_are_float32_contiguous_and_of_the_requested_shape(fit: str):
    pixels = to_pixels(_noise(60, 41), Preprocessing(30, 20, fit=fit))
    assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (np.float32, (3, 30, 20), True)


def test_values_are_scaled_before_mean_and_std():
    picture = Image.new("RGB", (2, 2), (0, 51, 255))
    preprocessing = Preprocessing(2, 2, fit="squash", mean=(0.5, 0.2, 0.0), std=(0.5, 1.0, 2.0))
    np.testing.assert_allclose(to_pixels(picture, preprocessing)[:, 0, 0], [-1.0, 0.0, 0.5], atol=1e-7)


@pytest.mark.parametrize("preprocessing", [CLIP, Preprocessing(96, 64, fit="squash"), Preprocessing(50, 50, fit="pad")])
def test_a_round_trip_changes_each_channel_by_at_most_one_level(preprocessing: Preprocessing):
    picture = _noise(preprocessing.width, preprocessing.height)
    difference = _preprocessed(picture, preprocessing).astype(int) - np.asarray(picture)
    assert np.abs(difference).max() <= 1


def test_out_of_range_pixels_are_clipped():
    pixels = np.array([[[-9.0]], [[0.0]], [[9.0]]], np.float32)
    assert to_pil_image(pixels, CLIP).getpixel((0, 0)) == (0, round(0.4578275 * 255), 255)


def test_pixels_that_do_not_form_a_picture_are_refused():
    with pytest.raises(InvalidSetting, match=r"\(3, H, W\)"):
        to_pil_image(np.zeros((1, 3, 4, 4)), CLIP)
    with pytest.raises(NotFinite):
        to_pil_image(np.full((3, 4, 4), np.nan), CLIP)


@pytest.mark.parametrize(("centre", "first_column"), [("floor", 1), ("round", 2)])
def test_a_half_pixel_crop_offset_is_rounded_as_configured(centre: str, first_column: int):
    preprocessing = Preprocessing(10, 7, resize=10, centre=centre)  # 3 excess columns: 1.5 on each side
    assert _preprocessed(_columns(10, 10), preprocessing)[0, 0].tolist() == [first_column, 0, 0]


def test_the_longer_side_is_rounded_down_if_the_shorter_is_set():
    preprocessing = Preprocessing(4, 100, resize=4)
    preprocessed = _preprocessed(Image.new("RGB", (300, 7), "white"), preprocessing)  # 4 * 300 / 7 = 171.4
    assert preprocessed.min() == 255
    wide = Preprocessing(4, 172, resize=4)
    assert _preprocessed(Image.new("RGB", (300, 7), "white"), wide)[0].min(axis=1).tolist() == [0] + [255] * 171


def test_a_picture_is_resized_to_cover_if_the_shorter_side_is_not_set():
    preprocessed = _preprocessed(Image.new("RGB", (300, 200), "white"), Preprocessing(60, 30))
    assert preprocessed.min() == 255


def test_a_padded_picture_is_complete_and_centered():
    preprocessed = _preprocessed(Image.new("RGB", (40, 20), "white"), Preprocessing(20, 20, fit="pad"))
    assert preprocessed[:, 0, 0].tolist() == [0] * 5 + [255] * 10 + [0] * 5


def test_a_single_pixel_fills_the_network_input():
    for fit in ("crop", "squash", "pad"):
        assert _preprocessed(Image.new("RGB", (1, 1), "white"), Preprocessing(8, 8, fit=fit)).min() == 255


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_a_very_wide_picture_causes_a_warning_with_its_name(fit: str):
    with pytest.warns(ExtremeShapeWarning, match="panorama.jpg: 310 x 100 is"):
        to_pixels(Image.new("RGB", (310, 100)), Preprocessing(8, 8, fit=fit), name="panorama.jpg")


@pytest.mark.parametrize(("width", "height", "fit"), [(300, 100, "squash"), (100, 300, "crop"), (900, 100, "pad")])
def test_a_picture_of_suitable_shape_causes_no_warning(width: int, height: int, fit: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_pixels(Image.new("RGB", (width, height)), Preprocessing(8, 8, fit=fit))


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (Preprocessing(224, 224, resize=256), 256),
        (Preprocessing(224, 200), 224),
        (Preprocessing(100, 384, fit="squash"), 384),
        (Preprocessing(100, 384, fit="pad"), 384),
    ],
)
def test_the_shorter_side_that_a_picture_needs_follows_from_the_fit(preprocessing: Preprocessing, expected: int):
    assert preprocessing.shorter_side == expected


def test_settings_round_trip_through_json():
    assert Preprocessing(**json.loads(json.dumps(asdict(CLIP)))) == CLIP


@pytest.mark.parametrize(
    "change",
    [
        {"fit": "stretch"},
        {"interpolation": "cubic"},
        {"centre": "left"},
        {"height": 0},
        {"width": 2.5},
        {"resize": -1},
        {"mean": (0.5, 0.5)},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.0, float("nan"), 0.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_error_names_the_invalid_setting(change: dict):
    with pytest.raises(InvalidSetting, match=next(iter(change))):
        Preprocessing(**{"height": 8, "width": 8, **change})
