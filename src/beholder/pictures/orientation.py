"""Which way is up, by the EXIF note of a camera."""

from PIL import Image

_ORIENTATION = 0x0112  # EXIF 2.3, section 4.6.4
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """The turn that brings a decoded picture upright; None where it is so already.

    TIFF and HEIC pictures were turned by their decoders and hold no such note any more.
    """
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damage of any kind in the EXIF is no reason to refuse the pixels
        return None
