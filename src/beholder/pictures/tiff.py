"""TIFF files whose samples Pillow misreads or refuses: deep, floating-point, signed, planar, inverted, CMYK with alpha.

Everything that Pillow decodes correctly is left to it. The rest is decoded here with NumPy where it is uncompressed or
deflated, and otherwise refused with a description, never shown wrongly.

Source: *TIFF Revision 6.0* and Adobe's technical notes (deflate compression, extra samples).
"""

import math
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from beholder.pictures.orientation import TRANSPOSITIONS

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _ORIENTATION = 256, 257, 258, 259, 262, 273, 274
_SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES, _PLANAR, _PREDICTOR, _EXTRA, _FORMAT, _ICC = (
    277,
    278,
    279,
    284,
    317,
    338,
    339,
    34675,
)
_SUBFILE_TYPE, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 271, 330, 50706
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_COLORS = {_WHITE_IS_ZERO: "grayscale", _BLACK_IS_ZERO: "grayscale", _RGB: "RGB", 3: "palette", _CMYK: "CMYK"}
_COLORS |= {6: "YCbCr", 8: "Lab"}
_COMPRESSIONS = {
    1: "uncompressed",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32946: "deflate",
    32773: "PackBits",
    50000: "Zstandard",
}
_CHANNELS = {_RGB: 3, _CMYK: 4}
_FORMATS = {1: "", 2: "signed ", 3: "floating-point "}


class UnsupportedTiff(Exception):
    """A kind of TIFF that neither Pillow nor this module decodes; the message describes it."""


class DeepTiffImageFile(TiffImageFile):
    """A TIFF that is opened as by Pillow, and whose samples are decoded here where Pillow would misread them."""

    _samples_here = False

    @property
    def is_raw(self) -> bool:
        """Whether this is a camera's RAW file (DNG, NEF, ARW and others), of which Pillow sees only the thumbnail."""
        tags = self.tag_v2
        return _DNG_VERSION in tags or (_MAKE in tags and _SUB_DIRECTORIES in tags and tags.get(_SUBFILE_TYPE) == 1)

    def _setup(self) -> None:
        self._samples_here = not _is_left_to_pillow(self.tag_v2)
        try:
            super()._setup()
        except (SyntaxError, KeyError):  # a combination of bits, samples and formats that Pillow doesn't know
            width, height = int(self.tag_v2[_WIDTH]), int(self.tag_v2[_HEIGHT])
            self._size = (height, width) if self.tag_v2.get(_ORIENTATION, 1) > 4 else (width, height)
            self._mode = "RGB"
            self._samples_here = True
            if _ICC in self.tag_v2:
                self.info["icc_profile"] = self.tag_v2[_ICC]

    def load(self) -> Any:
        """Decode the pixels.

        Raises:
            UnsupportedTiff: Pillow would misread the file, and it is not decoded here either.
        """
        if self._samples_here and self._im is None:
            if not isinstance(self.fp, BytesIO):
                raise UnsupportedTiff(_kind(self.tag_v2))
            image = _decoded(self.fp.getvalue(), self.tag_v2)
            transposition = TRANSPOSITIONS.get(self.tag_v2.get(_ORIENTATION, 1))
            image = image if transposition is None else image.transpose(transposition)
            self.getexif().pop(_ORIENTATION, None)
            self._mode, self._size, self.tile = image.mode, image.size, []
            self.im = image.im
        pixels = super().load()
        if self.mode.startswith("I;16"):
            values = np.asarray(self._new(self.im))
            self._mode = "L"
            self.im = Image.fromarray(_to_8_bits(values, self.tag_v2)).im
            return Image.Image.load(self)
        return pixels


def _is_left_to_pillow(tags: Any) -> bool:
    bits, formats = _list(tags, _BITS, 1), _list(tags, _FORMAT, 1)
    samples, is_planar = _number(tags, _SAMPLES, 1), _number(tags, _PLANAR, 1) == 2
    photometric = _number(tags, _PHOTOMETRIC, _BLACK_IS_ZERO)
    if len(set(bits)) > 1 or len(set(formats)) > 1:
        return True  # not found in practice; Pillow refuses what it doesn't know
    if photometric == _CMYK and samples > 4:
        return False
    is_packed = _number(tags, _COMPRESSION, 1) != 1
    if is_planar and samples <= 2 and not is_packed:
        return False
    if formats[0] == 3 and bits[0] == 32 and samples == 1:
        # Pillow doesn't invert floating-point samples, nor swap the bytes of those that it decompresses.
        return photometric == _BLACK_IS_ZERO and not (is_packed and tags._endian == ">")
    if formats[0] == 2 and bits[0] == 32:
        return True
    if formats[0] != 1 or bits[0] > 16:
        return False
    if bits[0] == 16:
        return not is_planar or is_packed
    if bits[0] > 8:
        return False
    return not (is_planar and samples == 2)


def _kind(tags: Any) -> str:
    bits, formats = _list(tags, _BITS, 1), _list(tags, _FORMAT, 1)
    photometric, compression = _number(tags, _PHOTOMETRIC, 1), _number(tags, _COMPRESSION, 1)
    planar = "planar " if _number(tags, _PLANAR, 1) == 2 and _number(tags, _SAMPLES, 1) > 1 else ""
    color = _COLORS.get(photometric, f"photometric {photometric}")
    packed = _COMPRESSIONS.get(compression, f"compression {compression}")
    more = " with alpha" if _number(tags, _SAMPLES, 1) > _CHANNELS.get(photometric, 1) else ""
    return f"{bits[0]}-bit {_FORMATS.get(formats[0], '')}{planar}{color}{more}, {packed}"


def _decoded(data: bytes, tags: Any) -> Image.Image:
    """Return the image in 8 bits, before the orientation is applied."""
    width, height, samples = int(tags[_WIDTH]), int(tags[_HEIGHT]), _number(tags, _SAMPLES, 1)
    bits, formats = _list(tags, _BITS, 1), _list(tags, _FORMAT, 1)
    photometric, compression = _number(tags, _PHOTOMETRIC, 1), _number(tags, _COMPRESSION, 1)
    predictor = _number(tags, _PREDICTOR, 1)
    is_known = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK) and compression in (1, 8, 32946)
    colors = _CHANNELS.get(photometric, 1)
    if (
        not is_known
        or len(set(bits)) > 1
        or samples < colors
        or _STRIP_OFFSETS not in tags
        or predictor not in (1, 2)
        or (predictor == 2 and (bits[0] % 8 or formats[0] == 3))
    ):
        raise UnsupportedTiff(_kind(tags))
    planes = samples if _number(tags, _PLANAR, 1) == 2 else 1
    together = samples // planes  # samples that lie next to one another
    rows_per_strip = min(_number(tags, _ROWS_PER_STRIP, height), height)
    offsets, sizes = _list(tags, _STRIP_OFFSETS, 0), _list(tags, _STRIP_SIZES, 0)
    row_bytes = math.ceil(width * together * bits[0] / 8)
    strips = math.ceil(height / rows_per_strip)
    if len(offsets) < strips * planes or len(sizes) < strips * planes:
        raise ValueError("strips are missing")
    values = np.empty((planes, height, width * together), _dtype(bits[0], formats[0], "=", tags))
    for number in range(strips * planes):
        plane, first = number // strips, number % strips * rows_per_strip
        rows = min(rows_per_strip, height - first)
        strip = data[offsets[number] : offsets[number] + sizes[number]]
        strip = zlib.decompressobj().decompress(strip, rows * row_bytes) if compression != 1 else strip
        if len(strip) < rows * row_bytes:
            raise ValueError("a strip is too short")
        part = _unpacked(strip[: rows * row_bytes], rows, width * together, bits[0], formats[0], tags)
        if predictor == 2:
            part = np.cumsum(part.reshape(rows, width, together), axis=1, dtype=part.dtype).reshape(rows, -1)
        values[plane, first : first + rows] = part
    array = np.moveaxis(values.reshape(planes, height, width, together), 0, 2).reshape(height, width, samples)
    extra = _list(tags, _EXTRA, 0)[:1] if samples > colors else [0]
    return _composited(array, colors, extra[0] if extra else 0, tags)


def _dtype(bits: int, sample_format: int, order: str, tags: Any) -> np.dtype:
    if sample_format == 3:
        if bits not in (16, 32, 64):
            raise UnsupportedTiff(_kind(tags))
        return np.dtype(f"{order}f{bits // 8}")
    letter = "i" if sample_format == 2 else "u"
    width = next((width for width in (8, 16, 32) if bits <= width), 0)
    if not width or (sample_format == 2 and bits != width):
        raise UnsupportedTiff(_kind(tags))
    return np.dtype(f"{order}{letter}{width // 8}")


def _unpacked(strip: bytes, rows: int, values: int, bits: int, sample_format: int, tags: Any) -> np.ndarray:
    """Return the samples (rows, values) of a strip, of any number of bits."""
    if bits in (8, 16, 32, 64):
        return np.frombuffer(strip, _dtype(bits, sample_format, tags._endian, tags)).reshape(rows, values)
    row_bits = np.unpackbits(np.frombuffer(strip, np.uint8).reshape(rows, -1), axis=1)[:, : values * bits]
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint32)
    return row_bits.reshape(rows, values, bits) @ weights


def _composited(array: np.ndarray, colors: int, extra: int, tags: Any) -> Image.Image:
    """Return samples (H, W, S) as an image, transparency composited over white."""
    deep = _to_8_bits(array[:, :, : colors + (extra in (1, 2))], tags)
    shown = deep[:, :, :colors].astype(np.int32)
    paper = 0 if colors == 4 else 255  # of ink, none is white
    if extra in (1, 2):
        alpha = deep[:, :, colors:].astype(np.int32)
        if extra == 2:  # not associated: colors are not multiplied by alpha
            shown = (shown * alpha + 127) // 255
        shown = shown + (paper * (255 - alpha) + 127) // 255
    eight = shown.clip(0, 255).astype(np.uint8)
    return Image.fromarray(eight[:, :, 0] if colors == 1 else eight, {1: "L", 3: "RGB", 4: "CMYK"}[colors])


def _to_8_bits(values: np.ndarray, tags: Any) -> np.ndarray:
    """Scale samples to 8 bits, with zero as black.

    White is the greatest value of the bits. Where the file does not say how many bits are used, it is the smallest
    usual maximum that covers the samples: 4095 in 16-bit grayscale; 255, 65535 in 32 bits; 1, 255, 65535 in floating
    point. Negative samples are stretched from minimum to maximum.
    """
    bits, sample_format = _list(tags, _BITS, 1)[0], _list(tags, _FORMAT, 1)[0]
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("contains NaN or infinite samples")
    is_gray = values.ndim == 2 or values.shape[2] == 1
    scales: tuple[float, ...]
    if sample_format == 3:
        scales = (1.0, 255.0, 65535.0)
    elif bits == 32:
        scales = (255.0, 65535.0, 2.0**31 - 1 if sample_format == 2 else 2.0**32 - 1)
    elif bits == 16 and is_gray and sample_format == 1:
        scales = (4095.0, 65535.0)
    else:
        scales = (2.0 ** (bits - (sample_format == 2)) - 1,)
    black, white = 0.0, next((scale for scale in scales if high <= scale), 0.0)
    if low < 0 or not white:
        black, white = low, high if high > low else low + 1
    scaled = np.rint((values.astype(np.float32) - black) * (255 / (white - black))).clip(0, 255).astype(np.uint8)
    return 255 - scaled if _number(tags, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO else scaled


def _list(tags: Any, tag: int, default: int) -> list[int]:
    value = tags.get(tag, default)
    return [int(item) for item in value] if isinstance(value, tuple) else [int(value)]


def _number(tags: Any, tag: int, default: int) -> int:
    return _list(tags, tag, default)[0]
