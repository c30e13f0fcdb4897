"""A picture becomes the numbers that a network was trained on, and numbers become a picture again."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from PIL import Image

from beholder.errors import InvalidSetting, NotFinite

Fit = Literal["crop", "squash", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Centre = Literal["floor", "round"]

_EXTREME = 3.0  # ratio of the picture's shape to the network's at which the result hardly shows the picture


class ExtremeShapeWarning(UserWarning):
    """A very wide or tall picture loses its proportions or most of itself on the way into the network."""


@dataclass(frozen=True)
class Preprocessing:
    """How pictures were prepared when a network was trained.

    A pixel value v in 0..255 becomes (v / 255 - mean) / std. Checkpoints that scale otherwise, by v * f and then
    (x - m) / s, are the same with mean = m / (255 f) and std = s / (255 f).

    Args:
        height: rows that the network takes.
        width: columns that the network takes.
        fit: ``"crop"``: resize keeping proportions, then cut out the centre; what is missing is black.
            ``"squash"``: resize to height and width whatever the proportions.
            ``"pad"``: resize keeping proportions until the longer side fits, the rest is black.
        resize: for ``"crop"``, the length that the shorter side is resized to; the longer one is rounded down. None
            resizes until the picture just covers height and width, rounded to nearest.
        interpolation: Pillow's filter of that name; each takes all source pixels into account.
        centre: for ``"crop"``, which way half a pixel goes: ``"floor"`` as in transformers' processors, ``"round"``
            (half to even) as in torchvision's ``CenterCrop``, hence in CLIP's own code and open_clip.
        mean: per channel, of values in 0..1.
        std: per channel, of values in 0..1.
    """

    height: int
    width: int
    fit: Fit = "crop"
    resize: int | None = None
    interpolation: Interpolation = "bicubic"
    centre: Centre = "floor"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Check the values; lists, which JSON has in the place of tuples, become tuples."""
        for setting, kind in (("fit", Fit), ("interpolation", Interpolation), ("centre", Centre)):
            if getattr(self, setting) not in get_args(kind):
                raise InvalidSetting(f"{setting}: one of {', '.join(get_args(kind))}, not {getattr(self, setting)!r}")
        for setting in ("height", "width", "resize"):
            value = getattr(self, setting)
            if not (setting == "resize" and value is None) and (not isinstance(value, int) or value < 1):
                raise InvalidSetting(f"{setting}: a whole number of pixels above 0, not {value!r}")
        for setting in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, setting))
            if len(values) != 3 or not np.isfinite(values).all() or (setting == "std" and min(values) <= 0):
                raise InvalidSetting(f"{setting}: three numbers, std above 0, not {getattr(self, setting)!r}")
            object.__setattr__(self, setting, values)

    @property
    def shorter_side(self) -> int:
        """The most that a picture's shorter side is resized to: what ``reduce_to`` of ``read_picture`` asks for."""
        if self.fit == "crop" and self.resize is not None:
            return self.resize
        return max(self.height, self.width)


def to_pixels(picture: Image.Image, preprocessing: Preprocessing, name: str = "picture") -> np.ndarray:
    """Prepare a picture for a network.

    Equal to the Pillow processors of transformers 5.23 for CLIP, Chinese-CLIP, SigLIP, ViT, BLIP and BiT (DINOv2),
    and to open_clip's transform for validation, each with the settings that belong to it.

    Args:
        picture: mode RGB, as ``read_picture`` gives it.
        preprocessing: how.
        name: what warnings call the picture.

    Returns:
        float32 (3, H, W), contiguous.
    """
    _warn_of_extreme_shape(picture, preprocessing, name)
    colours = np.asarray(fitted(picture, preprocessing))  # (H, W, 3) uint8
    pixels = np.empty((3, *colours.shape[:2]), np.float32)
    for channel, table in enumerate(_scaled_values(preprocessing.mean, preprocessing.std)):
        np.take(table, colours[:, :, channel], out=pixels[channel], mode="clip")  # nothing is out of range; unchecked
    return pixels


def fitted(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """A picture of mode RGB at the network's size, its colours as they are."""
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    return _place(picture.resize(_resized_size(picture, preprocessing), resampling), preprocessing)


def to_picture(pixels: np.ndarray, preprocessing: Preprocessing) -> Image.Image:
    """Show what a network sees: ``to_pixels`` undone, values outside black and white clipped.

    Args:
        pixels: float (3, H, W).
        preprocessing: what the pixels were made with.

    Raises:
        InvalidSetting: the pixels have another shape.
        NotFinite: they hold NaN or infinity.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise InvalidSetting(f"pixels: (3, H, W), not {pixels.shape}")
    if not np.isfinite(pixels).all():
        raise NotFinite("pixels: hold NaN or infinity, which is no colour")
    values = pixels.transpose(1, 2, 0) * np.array(preprocessing.std) + np.array(preprocessing.mean)  # (H, W, 3)
    return Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))


@lru_cache(maxsize=16)
def _scaled_values(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What the 256 values of a colour become: (3, 256). Looked up, a picture takes a fifth of the time of computing."""
    values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    return np.ascontiguousarray(((values - np.array(mean, np.float32)) / np.array(std, np.float32)).T)


def _resized_size(picture: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height after resizing."""
    if preprocessing.fit == "squash":
        return preprocessing.width, preprocessing.height
    width, height = picture.size
    if preprocessing.fit == "crop" and preprocessing.resize is not None:
        short, long = sorted((width, height))
        longer = int(preprocessing.resize * long / short)
        return (preprocessing.resize, longer) if width <= height else (longer, preprocessing.resize)
    ratios = width / preprocessing.width, height / preprocessing.height
    ratio = max(ratios) if preprocessing.fit == "pad" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _place(resized: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Cut out or surround with black, so that the centre stays the centre."""
    width, height = preprocessing.width, preprocessing.height
    left = _before(width - resized.width, preprocessing)
    top = _before(height - resized.height, preprocessing)
    if resized.size == (width, height):
        return resized
    return resized.crop((-left, -top, width - left, height - top))  # Pillow fills what lies outside with black


def _before(missing: int, preprocessing: Preprocessing) -> int:
    """Where the picture begins on its side of the canvas, of which it leaves so many pixels free (below 0: cut)."""
    if preprocessing.fit == "crop" and preprocessing.centre == "floor":
        return -(-missing // 2)
    return missing // 2 if missing > 0 else round(missing / 2)


def _warn_of_extreme_shape(picture: Image.Image, preprocessing: Preprocessing, name: str) -> None:
    if preprocessing.fit == "pad":
        return
    ratio = (picture.width / picture.height) / (preprocessing.width / preprocessing.height)
    ratio = max(ratio, 1 / ratio)
    if ratio <= _EXTREME:
        return
    loss = (
        f"squeezed {ratio:.1f} times in one direction"
        if preprocessing.fit == "squash"
        else f"cut to the middle {1 / ratio:.0%}"
    )
    shape = f"{picture.width} x {picture.height}"
    warnings.warn(
        f"{name}: {shape} is {loss} for this model; cut it into parts to have all of it seen",
        ExtremeShapeWarning,
        stacklevel=3,
    )
