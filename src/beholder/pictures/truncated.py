"""JPEG files that end early: without their end marker or their last rows, as interrupted copies leave them."""

import warnings
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_END, _SCAN = b"\xff\xd9", b"\xff\xda"
_MAX_MISSING = 0.25  # of the rows


class TruncatedPictureWarning(UserWarning):
    """A JPEG file ends early; what is there of it was read."""


def decode_truncated(image: Image.Image, name: str) -> Image.Image | None:
    """Decode a JPEG again whose file ends before its last row, with an end marker added.

    A progressive JPEG is taken if it has more than its first scan, which alone covers all of the picture; another if at
    most a quarter of its rows is missing. Missing rows are gray.

    Args:
        image: A JPEG opened from bytes, whose ``load`` has failed because the file is truncated.
        name: The name of the picture in the warning.

    Returns:
        The decoded image; None if too much is missing, or if it is not such a JPEG.
    """
    if not isinstance(image, JpegImageFile) or not isinstance(image.fp, BytesIO):
        return None
    data = image.fp.getvalue()
    again = JpegImageFile(BytesIO(data + _END))
    again.tile, again.decoderconfig = image.tile, image.decoderconfig  # the same reduced scale
    again._mode, again._size = image.mode, image.size
    again.load()
    if image.info.get("progressive"):
        missing, is_usable = 0, data.count(_SCAN) > 1
    else:
        # Rows that the first attempt did not reach are zero in it.
        reached = np.flatnonzero(np.asarray(image._new(image.im)).reshape(image.height, -1).max(axis=1))
        after = int(reached[-1]) + 1 if len(reached) else 0
        missing = image.height - after if np.asarray(again)[after:].any() else 0
        is_usable = missing <= _MAX_MISSING * image.height
    if not is_usable:
        return None
    lost = f"up to {missing} of its {image.height} rows are gray" if missing else "details may be missing"
    warnings.warn(f"{name}: the file is truncated; {lost}", TruncatedPictureWarning, stacklevel=4)
    return again
