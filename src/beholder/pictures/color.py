"""Convert decoded images of any mode, bit depth and color profile to 8-bit sRGB on white."""

import warnings
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from beholder.errors import PictureBroken

# ICC color space signature → Pillow mode.
_MODE_BY_COLOR_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class ColorProfileWarning(UserWarning):
    """A color profile can't be applied; the colors are interpreted as sRGB."""


def to_srgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a decoded image of any mode to mode RGB.

    Deeper samples are scaled to 8 bits, the embedded ICC profile is applied (an invalid one is ignored with a
    ``ColorProfileWarning``), and transparency is composited over white.

    Args:
        image: A decoded image.
        name: The name of the picture in warnings.

    Returns:
        The image in mode RGB; the same object if nothing had to be done.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image, name)
    with_alpha = image.convert("RGBA") if image.has_transparency_data else None
    match image.mode:
        case "RGB" | "L" | "CMYK":
            colors = image
        case "LA":
            colors = image.getchannel("L")
        case _:
            colors = (with_alpha or image).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile:
        colors = _apply_profile(colors, profile, name)
    if colors.mode != "RGB":
        colors = colors.convert("RGB")
    if with_alpha is None:
        return colors
    background = Image.new("RGB", image.size, "white")
    background.paste(colors, mask=with_alpha.getchannel("A"))
    return background


def _apply_profile(colors: Image.Image, profile: bytes, name: str) -> Image.Image:
    try:
        space, transform = _transform(profile)
        if space == "RGB" and colors.mode == "L":
            colors = colors.convert("RGB")
        if _MODE_BY_COLOR_SPACE[space] != colors.mode:
            raise ValueError(f"a profile for {space} in a picture of mode {colors.mode}")
        return colors if transform is None else transform.apply(colors)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, KeyError):
        warnings.warn(
            f"{name}: its color profile can't be applied; the colors are interpreted as sRGB",
            ColorProfileWarning,
            stacklevel=2,
        )
        return colors


@lru_cache(maxsize=16)  # images of one camera share a profile, and building a transform takes milliseconds
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the color space of a profile and the transform to sRGB, None if the profile is sRGB itself."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    space = source.profile.xcolor_space.strip()
    transform = ImageCms.ImageCmsTransform(source, target, _MODE_BY_COLOR_SPACE[space], "RGB")
    if space == "RGB":
        # Most profiles in the wild are versions of sRGB, and applying one takes longer than decoding the image.
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
        changed = np.asarray(transform.apply(Image.fromarray(colors)))
        if np.abs(changed.astype(int) - colors).max() <= 1:
            return space, None
    return space, transform


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale a grayscale image with deep samples to mode L.

    Files with 32-bit samples do not specify the white point. It is taken to be the smallest of 1 (floats only), 255
    and 65535 that covers all samples; samples beyond 65535 or below zero are stretched from minimum to maximum.
    """
    values = np.asarray(image).astype(np.float32)  # (H, W)
    if image.mode.startswith("I;16"):
        black, white = 0.0, 65535.0
    else:
        black, white = 0.0, float(values.max())
        if not np.isfinite(values).all():
            raise PictureBroken(name, "contains NaN or infinite samples")
        scales = (1, 255, 65535) if image.mode == "F" else (255, 65535)
        if values.min() < 0 or white > scales[-1]:
            black = float(values.min())
        else:
            white = next(scale for scale in scales if white <= scale)
    if white == black:  # a constant outside every scale
        white = black + 1
    scaled = np.rint((values - black) * (255 / (white - black)))
    gray = Image.fromarray(scaled.astype(np.uint8))
    gray.info.update(image.info)
    gray.info.pop("transparency", None)  # refers to a sample of the original depth
    return gray
