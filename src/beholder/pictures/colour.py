"""Whatever a file means by its numbers becomes 8-bit sRGB on a white ground."""

import warnings
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from beholder.errors import PictureBroken

# The colour space that an ICC profile speaks of, and the Pillow mode that carries it.
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class ColourProfileWarning(UserWarning):
    """A picture's colour profile can't be used; its colours are taken as sRGB."""


def to_srgb(image: Image.Image, name: str) -> Image.Image:
    """Bring a decoded picture of any mode to mode RGB.

    More than 8 bits are scaled down, the embedded ICC profile is applied (a damaged one is left out with a
    ``ColourProfileWarning``), and transparency is laid over white.

    Args:
        image: a decoded picture.
        name: what warnings call the picture.

    Returns:
        The picture in mode RGB; the very same object where there was nothing to do.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image, name)
    see_through = image.convert("RGBA") if image.has_transparency_data else None
    match image.mode:
        case "RGB" | "L" | "CMYK":
            colours = image
        case "LA":
            colours = image.getchannel("L")
        case _:
            colours = (see_through or image).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile:
        colours = _without_profile(colours, profile, name)
    if colours.mode != "RGB":
        colours = colours.convert("RGB")
    if see_through is None:
        return colours
    ground = Image.new("RGB", image.size, "white")
    ground.paste(colours, mask=see_through.getchannel("A"))
    return ground


def _without_profile(colours: Image.Image, profile: bytes, name: str) -> Image.Image:
    try:
        space, transform = _transform(profile)
        if space == "RGB" and colours.mode == "L":
            colours = colours.convert("RGB")
        if _MODE_OF_SPACE[space] != colours.mode:
            raise ValueError(f"a profile for {space} in a picture of mode {colours.mode}")
        return colours if transform is None else transform.apply(colours)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, KeyError):
        warnings.warn(
            f"{name}: its colour profile can't be used; the colours are taken as sRGB",
            ColourProfileWarning,
            stacklevel=2,
        )
        return colours


@lru_cache(maxsize=16)  # a camera's pictures share one profile, and building a transform costs milliseconds
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The colour space that a profile speaks of and the way from there to sRGB; None where it is sRGB itself."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    space = source.profile.xcolor_space.strip()
    transform = ImageCms.ImageCmsTransform(source, target, _MODE_OF_SPACE[space], "RGB")
    if space == "RGB":
        # Most profiles found are some edition of sRGB, and applying one takes longer than decoding the picture.
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
        changed = np.asarray(transform.apply(Image.fromarray(colours)))
        if np.abs(changed.astype(int) - colours).max() <= 1:
            return space, None
    return space, transform


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale a deep grey picture to mode L.

    Files with 32-bit samples do not say where white is. The smallest of 1 (floats only), 255 and 65535 that holds all
    samples is taken for it; samples beyond these, or below zero, are stretched from their least to their greatest.
    """
    values = np.asarray(image).astype(np.float32)  # (H, W)
    if image.mode.startswith("I;16"):
        black, white = 0.0, 65535.0
    else:
        black, white = 0.0, float(values.max())
        if not np.isfinite(values).all():
            raise PictureBroken(name, "holds samples that are not finite numbers")
        scales = (1, 255, 65535) if image.mode == "F" else (255, 65535)
        if values.min() < 0 or white > scales[-1]:
            black = float(values.min())
        else:
            white = next(scale for scale in scales if white <= scale)
    if white == black:  # one value everywhere, outside every scale: nothing to see
        white = black + 1
    scaled = np.rint((values - black) * (255 / (white - black)))
    grey = Image.fromarray(scaled.astype(np.uint8))
    grey.info.update(image.info)
    grey.info.pop("transparency", None)  # it is a sample of the old depth
    return grey
