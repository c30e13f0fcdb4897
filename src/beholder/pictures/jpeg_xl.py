"""JPEG XL: size and orientation from the header, pixels by libjxl through pillow-jxl-plugin.

Source: ISO/IEC 18181-1 (image header) and 18181-2 (boxes).
"""

from importlib.util import find_spec
from io import BytesIO
from typing import Any

from PIL import Image, ImageFile

from beholder.pictures.orientation import exif_without_orientation

_CODESTREAM = b"\xff\x0a"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width : height
_BITS = (9, 13, 18, 30)
_TRANSPOSED = 5  # orientations from here on exchange width and height
_MAX_BOXES = 1000
_TIFF = (b"II*\0", b"MM\0*")


def can_read_jpeg_xl() -> bool:
    """Return whether pillow-jxl-plugin is installed."""
    try:
        return find_spec("pillow_jxl") is not None
    except ValueError:  # it is blocked
        return False


class JpegXlImageFile(ImageFile.ImageFile):
    """A JPEG XL file, opened lazily. Its size and pixels are upright; of an animation, the first frame."""

    format = "JPEG XL"

    def _open(self) -> None:
        self._data = self.fp.read()  # type: ignore[union-attr]
        codestream, exif = _parts(self._data)
        self._size = _upright_size(codestream)
        self._mode = "RGB"
        if exif:
            self.info["exif"] = exif
        self.tile = []

    def getexif(self) -> Image.Exif:
        """Return the EXIF without the orientation, which is applied."""
        return exif_without_orientation(self.info.get("exif", b""))

    def load(self) -> Any:
        """Decode the pixels."""
        if self._im is None:
            from pillow_jxl.JpegXLImagePlugin import JXLImageFile

            image: Image.Image = JXLImageFile(BytesIO(self._data))
            image.load()
            if "icc_profile" in image.info:
                self.info["icc_profile"] = image.info["icc_profile"]
            if image.size != self._size:
                raise ValueError("the size of the pixels is not that in the header")
            self._mode = image.mode
            self.im = image.im
        return Image.Image.load(self)


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """Return the start of the codestream, and the EXIF block, of a bare codestream or a file of boxes."""
    if data.startswith(_CODESTREAM):
        return data[:64], b""
    codestream, exif, place = b"", b"", 0
    for _ in range(_MAX_BOXES):
        size, kind, start = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], place + 8
        if len(kind) < 4:
            break
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = place + size if size else len(data)
        if kind in (b"jxlc", b"jxlp") and not codestream:
            start += 4 if kind == b"jxlp" else 0  # the number of the part
            codestream = data[start : min(end, start + 64)]
        elif kind == b"Exif" and not exif:
            skipped = 0 if data[start : start + 4] in _TIFF else 4  # the offset of the TIFF header, if it is there
            exif = b"Exif\0\0" + data[start + skipped : end]
        if end <= place or end >= len(data):
            break
        place = end
    return codestream, exif


def _upright_size(codestream: bytes) -> tuple[int, int]:
    if not codestream.startswith(_CODESTREAM):
        raise ValueError("there is no codestream")
    bits, place = int.from_bytes(codestream[2:], "little"), 0

    def take(count: int) -> int:
        nonlocal place
        value = (bits >> place) & ((1 << count) - 1)
        place += count
        return value

    def length(is_small: int) -> int:
        return 8 * (take(5) + 1) if is_small else 1 + take(_BITS[take(2)])

    is_small = take(1)
    height = length(is_small)
    ratio = take(3)
    width = length(is_small) if not ratio else height * _RATIOS[ratio][0] // _RATIOS[ratio][1]
    is_default = take(1)
    orientation = take(3) + 1 if not is_default and take(1) else 1
    return (height, width) if orientation >= _TRANSPOSED else (width, height)
