"""Image preprocessing: resize, crop, normalize, and the inverse for display."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from beholder.errors import InvalidSetting, NotFinite

Fit = Literal["crop", "squash", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
CropRounding = Literal["floor", "round"]

_EXTREME_RATIO = 3.0  # ratio of aspect ratios above which little of the picture is left


class ExtremeShapeWarning(UserWarning):
    """A very wide or tall picture is heavily distorted or cropped by preprocessing."""


def check_choice(setting: str, value: object, kind: Any) -> None:
    """Raise `InvalidSetting` unless a value is one of those of a ``Literal``."""
    if value not in get_args(kind):
        raise InvalidSetting(f"{setting}: must be one of {', '.join(get_args(kind))}, not {value!r}")


def check_positive(setting: str, value: object) -> None:
    """Raise `InvalidSetting` unless a value is a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise InvalidSetting(f"{setting}: must be a positive integer, not {value!r}")


def three_numbers(setting: str, given: Sequence[float]) -> tuple[float, ...]:
    """Return the values of ``mean`` or ``std`` as numbers.

    Raises:
        InvalidSetting: they are not three, not finite, or not positive for ``std``.
    """
    values = tuple(float(value) for value in given)
    if len(values) != 3 or not np.isfinite(values).all() or (setting == "std" and min(values) <= 0):
        raise InvalidSetting(f"{setting}: must be three numbers (positive for std), not {given!r}")
    return values


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that a network was trained with.

    A pixel value v in 0..255 becomes (v / 255 - mean) / std. Checkpoints that rescale by a factor f and then compute
    (x - m) / s are expressed by mean = m / (255 f) and std = s / (255 f).

    Args:
        height: Input height of the network.
        width: Input width of the network.
        fit: ``"crop"``: resize preserving the aspect ratio, then center-crop, padding with black where needed.
            ``"squash"``: resize to height and width, ignoring the aspect ratio; center-crop after that if ``resize``
            is given.
            ``"pad"``: resize preserving the aspect ratio until the longer side fits, then pad with black.
        resize: For ``"crop"``, the length of the shorter side after resizing; the longer one is rounded down. None
            resizes until the picture just covers height and width, rounding to nearest. For ``"squash"``, the side of
            the square from which height and width are cropped.
        interpolation: Name of a Pillow resampling filter (antialiased).
        centre: For cropping, the rounding of half a pixel: ``"floor"`` as in transformers' processors, ``"round"``
            (half to even) as in torchvision's ``CenterCrop``, hence in OpenAI's CLIP and open_clip.
        mean: Per channel, for values in 0..1.
        std: Per channel, for values in 0..1.
    """

    height: int
    width: int
    fit: Fit = "crop"
    resize: int | None = None
    interpolation: Interpolation = "bicubic"
    centre: CropRounding = "floor"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Validate the values and convert lists, as loaded from JSON, to tuples."""
        for setting, kind in (("fit", Fit), ("interpolation", Interpolation), ("centre", CropRounding)):
            check_choice(setting, getattr(self, setting), kind)
        for setting in ("height", "width", "resize"):
            value = getattr(self, setting)
            if not (setting == "resize" and value is None):
                check_positive(setting, value)
        for setting in ("mean", "std"):
            object.__setattr__(self, setting, three_numbers(setting, getattr(self, setting)))

    @property
    def shorter_side(self) -> int:
        """The maximum length of the shorter side after resizing: the value for ``reduce_to`` of ``read_picture``."""
        if self.fit in ("crop", "squash") and self.resize is not None:
            return self.resize
        return max(self.height, self.width)


def to_pixels(picture: Image.Image, preprocessing: Preprocessing, name: str = "picture") -> np.ndarray:
    """Resize, crop and normalize a picture for a network.

    Matches the Pillow image processors of transformers 5.23 for CLIP, Chinese-CLIP, SigLIP, ViT, BLIP and BiT
    (DINOv2), and open_clip's validation transform, each with its own settings.

    Args:
        picture: An image of mode RGB, as returned by ``read_picture``.
        preprocessing: The preprocessing of the network.
        name: The name of the picture in warnings.

    Returns:
        Contiguous float32 array (3, H, W).
    """
    _warn_about_extreme_shape(picture, preprocessing, name)
    return normalize(np.asarray(resize_and_crop(picture, preprocessing)), preprocessing.mean, preprocessing.std)


def normalize(colors: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """Scale 8-bit samples (H, W, 3) to 0..1, subtract the mean and divide by std: → float32 (3, H, W)."""
    pixels = np.empty((3, *colors.shape[:2]), np.float32)
    for channel, table in enumerate(_normalization_table(mean, std)):
        np.take(
            table, colors[:, :, channel], out=pixels[channel], mode="clip"
        )  # all in range; "clip" skips the bounds check
    return pixels


def resize_and_crop(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize and crop (or pad) an image of mode RGB to the network's input size, without normalization."""
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    return _center_crop_or_pad(picture.resize(_resized_size(picture, preprocessing), resampling), preprocessing)


def to_pil_image(pixels: np.ndarray, preprocessing: Preprocessing) -> Image.Image:
    """Convert network input back to an image: the inverse of ``to_pixels``, with values clipped to 0..255.

    Args:
        pixels: Float array (3, H, W).
        preprocessing: The preprocessing that produced the pixels.

    Raises:
        InvalidSetting: The pixels have another shape.
        NotFinite: The pixels contain NaN or infinity.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise InvalidSetting(f"pixels: must be (3, H, W), not {pixels.shape}")
    if not np.isfinite(pixels).all():
        raise NotFinite("pixels: contain NaN or infinity")
    values = pixels.transpose(1, 2, 0) * np.array(preprocessing.std) + np.array(preprocessing.mean)  # (H, W, 3)
    return Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))


@lru_cache(maxsize=16)
def _normalization_table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return the normalized value of each 8-bit sample, (3, 256). A lookup takes a fifth of the time of computing."""
    values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    return np.ascontiguousarray(((values - np.array(mean, np.float32)) / np.array(std, np.float32)).T)


def _resized_size(picture: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return width and height after resizing."""
    if preprocessing.fit == "squash":
        return preprocessing.resize or preprocessing.width, preprocessing.resize or preprocessing.height
    width, height = picture.size
    if preprocessing.fit == "crop" and preprocessing.resize is not None:
        short, long = sorted((width, height))
        longer = int(preprocessing.resize * long / short)
        return (preprocessing.resize, longer) if width <= height else (longer, preprocessing.resize)
    ratios = width / preprocessing.width, height / preprocessing.height
    ratio = max(ratios) if preprocessing.fit == "pad" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _center_crop_or_pad(resized: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Center-crop or pad with black to the input size."""
    width, height = preprocessing.width, preprocessing.height
    left = _leading_margin(width - resized.width, preprocessing)
    top = _leading_margin(height - resized.height, preprocessing)
    if resized.size == (width, height):
        return resized
    return resized.crop((-left, -top, width - left, height - top))  # Pillow fills what lies outside with black


def _leading_margin(missing: int, preprocessing: Preprocessing) -> int:
    """Return the offset of the image along one side, given the size difference (negative: to be cropped)."""
    if preprocessing.fit in ("crop", "squash") and preprocessing.centre == "floor":
        return -(-missing // 2)
    return missing // 2 if missing > 0 else round(missing / 2)


def _warn_about_extreme_shape(picture: Image.Image, preprocessing: Preprocessing, name: str) -> None:
    if preprocessing.fit == "pad":
        return
    ratio = (picture.width / picture.height) / (preprocessing.width / preprocessing.height)
    ratio = max(ratio, 1 / ratio)
    if ratio <= _EXTREME_RATIO:
        return
    loss = (
        f"squashed {ratio:.1f} times in one direction"
        if preprocessing.fit == "squash"
        else f"cropped to the central {1 / ratio:.0%}"
    )
    shape = f"{picture.width} x {picture.height}"
    warnings.warn(
        f"{name}: {shape} is {loss} for this model; split it into parts to cover all of it",
        ExtremeShapeWarning,
        stacklevel=3,
    )
