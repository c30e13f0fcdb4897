"""Read a picture from a path, bytes, an array, a Pillow image or a URL into an upright sRGB image."""

import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from beholder.errors import (
    NotAPicture,
    PictureBroken,
    PictureError,
    PictureNotFound,
    PictureRefused,
    PictureTooLarge,
    PictureUnreadable,
)
from beholder.pictures.color import to_srgb
from beholder.pictures.formats import header_damage, open_image
from beholder.pictures.limits import Limits
from beholder.pictures.orientation import exif_transposition
from beholder.pictures.raw import RawDevelopedWarning, RawImageFile
from beholder.pictures.tiff import UnsupportedTiff
from beholder.pictures.truncated import decode_truncated
from beholder.pictures.url import fetch, is_url, redact_url
from beholder.pictures.video import VideoFrame, clock, read_frame

ImageSource = str | Path | bytes | Image.Image | np.ndarray | VideoFrame

# JPEG decodes at 1/2, 1/4 or 1/8 scale in a fraction of the time. Both sides stay at least this many times the side
# that the caller needs. benchmarks/decoding.py measures the time and accuracy of each margin.
REDUCTION_MARGIN = 2


class FileBytes(bytes):
    """The contents of a file together with its ``path``, which names it in error messages."""

    path: str


def read_file(path: str | os.PathLike[str], limits: Limits = Limits()) -> FileBytes:  # noqa: B008
    """Read the bytes of an image file without decoding them.

    Raises:
        PictureError: The file does not exist, can't be opened, is not a regular file, or exceeds the limits.
    """
    data = FileBytes(_read_path(Path(path), display_name(path, 0), limits))
    data.path = os.fspath(path)
    return data


def read_picture(
    source: ImageSource,
    *,
    name: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen, so the shared default is safe)
    allow_urls: bool = False,
    reduce_to: int | None = None,
) -> Image.Image:
    """Read the first frame of a picture as upright sRGB, with transparency composited over white.

    Args:
        source: A path; the bytes of a file; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or of floats
            in 0..1, interpreted as sRGB; a Pillow image; a `VideoFrame`; or, with ``allow_urls``, an http(s) URL.
        name: The name of the picture in error messages; ``display_name(source, 0)`` by default.
        limits: Limits on size, shape and time.
        allow_urls: Whether to fetch strings that are URLs. Only public addresses are fetched.
        reduce_to: The shorter side, in pixels, that the caller will need. Large JPEGs are then decoded at reduced
            scale with both sides at least ``REDUCTION_MARGIN`` times that. None decodes at full scale.

    Returns:
        The image in mode RGB. A Pillow image that is already upright sRGB is returned unchanged.

    Raises:
        PictureError: One of its subclasses, which names the picture and the reason.
    """
    if name is None:
        name = display_name(source, 0)
    try:
        if isinstance(source, np.ndarray):
            return _decode(_from_array(source, name), name, limits)
        if isinstance(source, VideoFrame):
            source = read_frame(source)
        if isinstance(source, Image.Image):
            return _decode(source, name, limits)
        return _decode(_open(_read_source(source, name, limits, allow_urls), name, limits, reduce_to), name, limits)
    except MemoryError as error:
        raise PictureTooLarge(name, "needs more memory than there is") from error


def display_name(source: object, index: int) -> str:
    """Return the name of a picture for messages: its path or URL, or else ``picture N``, with N counted from 1.

    The result is safe to print: credentials in URLs, undecodable bytes and control characters are replaced.
    """
    if isinstance(source, Image.Image):
        source = getattr(source, "filename", "")  # set by Image.open
    elif isinstance(source, VideoFrame):
        return f"{display_name(source.path, index)} at {clock(source.time)}"
    elif isinstance(source, FileBytes):
        source = source.path
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        return f"picture {index + 1}"
    text = os.fsdecode(source)
    if is_url(text):
        text = redact_url(text)
    # File names may contain undecodable bytes, and control characters that a terminal would interpret.
    text = text.encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _read_source(source: object, name: str, limits: Limits, allow_urls: bool) -> bytes:
    if isinstance(source, bytes):
        limits.check_bytes(len(source), name)
        return source
    if isinstance(source, str) and is_url(source):
        if not allow_urls:
            raise PictureRefused(name, "is a URL; URLs are fetched only with allow_urls")
        return fetch(source, name, limits)
    if isinstance(source, str | os.PathLike):
        return _read_path(Path(source), name, limits)
    raise NotAPicture(name, f"a picture is a path, bytes, an array or a Pillow image, not {type(source).__name__}")


def _read_path(path: Path, name: str, limits: Limits) -> bytes:
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            return _read_open_file(file, name, limits)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureNotFound(name, "no such file") from error
    except IsADirectoryError as error:
        raise PictureUnreadable(name, "is a folder; name the pictures in it") from error
    except OSError as error:
        raise PictureUnreadable(name, f"can't be opened: {error.strerror}") from error
    except ValueError as error:  # an embedded null character
        raise PictureNotFound(name, "not a valid file name") from error


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a named pipe without a writer would block


def _read_open_file(file: BinaryIO, name: str, limits: Limits) -> bytes:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise PictureUnreadable(name, "is a pipe or a device, not a file")
    limits.check_bytes(status.st_size, name)
    data = file.read(int(limits.megabytes * 1e6) + 1)  # it may still be growing
    limits.check_bytes(len(data), name)
    return data


def _open(data: bytes, name: str, limits: Limits, reduce_to: int | None) -> Image.Image:
    if not data:
        raise NotAPicture(name, "is empty: 0 bytes")
    try:
        image, found = open_image(data, name)
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(name, "has more pixels than Pillow decodes in this format") from error
    except Exception as error:  # decoders raise errors of any type on damaged data
        raise PictureBroken(name, header_damage(name)) from error
    width, height = image.size
    if isinstance(image, RawImageFile) and not image.has_large_preview:
        warnings.warn(f"{name}: RAW without a large preview, developed at half size", RawDevelopedWarning, stacklevel=3)
    if reduce_to is not None and found == "JPEG":
        image.draft(None, (REDUCTION_MARGIN * reduce_to, REDUCTION_MARGIN * reduce_to))
    limits.check_shape(width, height, name, reduction=round(width / image.width))
    return image


def _decode(image: Image.Image, name: str, limits: Limits) -> Image.Image:
    """Decode, convert to sRGB and apply the EXIF orientation."""
    limits.check_shape(*image.size, name)
    try:
        try:
            image.load()
        except OSError as error:
            rescued = decode_truncated(image, name) if "truncated" in str(error) else None
            if rescued is None:
                raise
            image = rescued
        transposition = exif_transposition(image)
        image = to_srgb(image, name)
        return image if transposition is None else image.transpose(transposition)
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(name, "has more pixels than Pillow decodes in this format") from error
    except UnsupportedTiff as error:
        raise PictureRefused(
            name, f"TIFF of an unsupported kind ({error}): save it uncompressed, or in 8 bits"
        ) from error
    except Exception as error:  # decoders raise errors of any type on damaged data
        raise PictureBroken(name, "its pixels can't be decoded: the file is damaged or truncated") from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """Convert an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) to a Pillow image."""
    shape = " x ".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last: array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "; pass the pictures of a batch one by one"
        raise NotAPicture(name, f"an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {shape}{hint}")
    if array.size == 0:
        raise NotAPicture(name, f"the array has no pixels: {shape}")
    if np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise NotAPicture(name, f"float arrays must be in 0..1, not {low:g}..{high:g}: scale the values")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise NotAPicture(name, f"an array must be uint8 or floats in 0..1, not {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(array)
