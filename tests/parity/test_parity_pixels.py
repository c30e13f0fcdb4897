"""`to_pixels` against transformers' Pillow processors and against the definition of open_clip's transform."""

import numpy as np
import pytest
from PIL import Image

from beholder.pictures.transform import Preprocessing, to_pixels

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD}

# Module and class of the reference, its arguments, and our equivalent settings.
PROCESSORS = {
    "clip": ("clip", "CLIPImageProcessorPil", {}, Preprocessing(224, 224, resize=224, **CLIP)),
    "clip at 336": (
        "clip",
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
        Preprocessing(336, 336, resize=336, **CLIP),
    ),
    "chinese clip": ("chinese_clip", "ChineseCLIPImageProcessorPil", {}, Preprocessing(224, 224, resize=224, **CLIP)),
    "chinese clip, squashed": (
        "chinese_clip",
        "ChineseCLIPImageProcessorPil",
        {"size": {"height": 224, "width": 224}, "do_center_crop": False},
        Preprocessing(224, 224, fit="squash", **CLIP),
    ),
    "siglip": ("siglip", "SiglipImageProcessorPil", {}, Preprocessing(224, 224, fit="squash", **HALF)),
    "siglip 2 at a fixed size": (
        "siglip",
        "SiglipImageProcessorPil",
        {"size": {"height": 256, "width": 256}, "resample": 2},
        Preprocessing(256, 256, fit="squash", interpolation="bilinear", **HALF),
    ),
    "vit": (
        "vit",
        "ViTImageProcessorPil",
        {},
        Preprocessing(224, 224, fit="squash", interpolation="bilinear", **HALF),
    ),
    "blip": ("blip", "BlipImageProcessorPil", {}, Preprocessing(384, 384, fit="squash", **CLIP)),
    "dinov2": (
        "bit",
        "BitImageProcessorPil",
        {"size": {"shortest_edge": 256}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        Preprocessing(224, 224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ),
    "crop larger than the resized picture": (
        "clip",
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 61}, "crop_size": {"height": 88, "width": 75}},
        Preprocessing(88, 75, resize=61, **CLIP),
    ),
    "crop that is not square": (
        "clip",
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 100}, "crop_size": {"height": 51, "width": 90}},
        Preprocessing(51, 90, resize=100, **CLIP),
    ),
    "without normalising": (
        "clip",
        "CLIPImageProcessorPil",
        {"do_normalize": False},
        Preprocessing(224, 224, resize=224),
    ),
}
SHAPES = [(640, 480), (481, 641), (224, 224), (225, 223), (1, 1), (3, 2), (7, 300), (299, 101), (1001, 333), (30, 90)]


def _picture(width: int, height: int) -> Image.Image:
    """Return smooth colors plus noise, which reveal differences of filters and offsets."""
    rng = np.random.default_rng(1000 * width + height)
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    smooth = np.stack([np.sin(x + y), np.cos(2 * x - y), np.sin(x * y)], axis=-1) * 90 + 128
    return Image.fromarray((smooth + rng.normal(0, 30, smooth.shape)).clip(0, 255).astype(np.uint8))


def _reference(module: str, name: str, settings: dict, picture: Image.Image) -> np.ndarray:
    from importlib import import_module

    processors = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    processor = getattr(processors, name)(**settings)
    return processor(picture, return_tensors="np")["pixel_values"][0]


@pytest.mark.filterwarnings("ignore::beholder.pictures.transform.ExtremeShapeWarning")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", PROCESSORS)
def test_pixels_equal_those_of_the_transformers_processor(case: str, shape: tuple[int, int]):
    module, name, settings, preprocessing = PROCESSORS[case]
    picture = _picture(*shape)
    expected = _reference(module, name, settings, picture)
    found = to_pixels(picture, preprocessing)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::beholder.pictures.transform.ExtremeShapeWarning")
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_every_interpolation_equals_that_of_transformers(interpolation: str):
    picture = _picture(333, 257)
    settings = {"resample": Image.Resampling[interpolation.upper()]}
    expected = _reference("clip", "CLIPImageProcessorPil", settings, picture)
    found = to_pixels(picture, Preprocessing(224, 224, resize=224, interpolation=interpolation, **CLIP))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def _place(picture: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    """Crop a box (left, top, right, bottom) with values in 0..1, black outside the picture."""
    left, top, right, bottom = box
    canvas = np.zeros((bottom - top, right - left, 3), np.uint8)
    for row in range(top, bottom):
        for column in range(left, right):
            if 0 <= row < picture.height and 0 <= column < picture.width:
                canvas[row - top, column - left] = picture.getpixel((column, row))
    return canvas.transpose(2, 0, 1) / 255


# The validation transform of open_clip 3.3.0 with torchvision's Resize and CenterCrop, computed by hand: size of the
# picture, mode, input size of the network; then the size after resizing and the offset of the crop.
OPEN_CLIP = [
    # shortest, square: the longer side is int(32 * long / short); the offset is round((long - 32) / 2), half to even
    ((99, 50), "shortest", (32, 32), (63, 32), (16, 0)),  # 63.36; 15.5 to even
    ((50, 105), "shortest", (32, 32), (32, 67), (0, 18)),  # 67.2; 17.5 to even
    ((60, 50), "shortest", (32, 32), (38, 32), (3, 0)),  # 38.4
    # shortest, not square: the ratio that covers, both sides rounded to nearest
    ((99, 50), "shortest", (30, 20), (59, 30), (20, 0)),  # 59.4; 19.5 to even
    # longest: the ratio at which the whole picture fits; the smaller half of the padding comes first
    ((99, 50), "longest", (32, 32), (32, 16), (0, -8)),  # 16.2
    ((50, 97), "longest", (32, 32), (16, 32), (-8, 0)),  # 16.5 to even
    ((99, 53), "longest", (32, 32), (32, 17), (0, -7)),  # 17.1; 15 rows of padding
    ((99, 50), "squash", (30, 20), (20, 30), (0, 0)),
]


@pytest.mark.parametrize(("size", "mode", "network", "resized", "start"), OPEN_CLIP)
def test_pixels_equal_the_open_clip_transform_computed_by_hand(size, mode, network, resized, start):
    height, width = network
    fit = {"shortest": "crop", "longest": "pad", "squash": "squash"}[mode]
    resize = height if mode == "shortest" and height == width else None
    picture = _picture(*size)
    box = (*start, start[0] + width, start[1] + height)
    expected = _place(picture.resize(resized, Image.Resampling.BICUBIC), box)
    found = to_pixels(picture, Preprocessing(height, width, fit=fit, resize=resize, centre="round"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
