"""EXIF orientation."""

from PIL import Image

_ORIENTATION = 0x0112  # EXIF 2.3, section 4.6.4
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif_transposition(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that brings a decoded image upright, or None if it already is.

    The decoders of TIFF and HEIC apply the orientation themselves and drop the tag.
    """
    try:
        return TRANSPOSITIONS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF must not prevent decoding the pixels
        return None


def exif_without_orientation(data: bytes) -> Image.Exif:
    """Parse EXIF of a picture whose pixels are upright already: without the orientation, and empty if it is damaged."""
    exif = Image.Exif()
    try:
        exif.load(data)
    except Exception:  # Pillow raises errors of any type on damaged EXIF
        return Image.Exif()
    exif.pop(_ORIENTATION, None)
    return exif
