"""A picture comes in: from a path, bytes, an array, a Pillow image or an address, to upright sRGB."""

import os
import stat
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
from beholder.pictures.address import fetch, is_address, without_password
from beholder.pictures.colour import to_srgb
from beholder.pictures.formats import open_header
from beholder.pictures.limits import Limits
from beholder.pictures.orientation import turn_of

Source = str | Path | bytes | Image.Image | np.ndarray

# A JPEG can be decoded at a half, a quarter or an eighth of its size in a fraction of the time. Both sides stay at
# least this many times the side that the caller needs. benchmarks/decoding.py shows what each margin costs and saves.
REDUCTION_MARGIN = 2


class FileBytes(bytes):
    """The bytes of a file that was read already; errors call them by its ``path``."""

    path: str


def read_file(path: str | os.PathLike[str], limits: Limits = Limits()) -> FileBytes:  # noqa: B008
    """The bytes of a picture's file, not yet looked at.

    Raises:
        PictureError: there is no such file, it can't be opened, it is no file, or it is larger than the limits allow.
    """
    data = FileBytes(_bytes_of_file(Path(path), picture_name(path, 0), limits))
    data.path = os.fspath(path)
    return data


def read_picture(
    source: Source,
    *,
    name: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen, so that a shared default is safe)
    allow_urls: bool = False,
    reduce_to: int | None = None,
) -> Image.Image:
    """Read a picture: upright by its EXIF orientation, in sRGB, transparency over white, the first frame.

    Args:
        source: a path; the bytes of a file; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or of floats
            in 0..1, taken as sRGB; a Pillow image; or, with ``allow_urls``, an http(s) address.
        name: what errors call the picture; by default what ``picture_name`` makes of the source.
        limits: what a picture may cost.
        allow_urls: whether a string that is an address is fetched. Only public addresses are.
        reduce_to: the shorter side, in pixels, that the caller will need. Large JPEGs are then decoded at reduced
            scale with both sides at least ``REDUCTION_MARGIN`` times that. None decodes in full.

    Returns:
        The picture in mode RGB. A Pillow image that is so already comes back itself.

    Raises:
        PictureError: one of its kinds, which names the picture and says what is wrong.
    """
    if name is None:
        name = picture_name(source, 0)
    try:
        if isinstance(source, np.ndarray):
            return _finish(_from_array(source, name), name, limits)
        if isinstance(source, Image.Image):
            return _finish(source, name, limits)
        return _finish(_open(_bytes_of(source, name, limits, allow_urls), name, limits, reduce_to), name, limits)
    except MemoryError as error:
        raise PictureTooLarge(name, "needs more memory than there is") from error


def picture_name(source: object, index: int) -> str:
    """What errors call a picture: its path or address, or its place among the pictures of a call, counted from 1."""
    if isinstance(source, Image.Image):
        source = getattr(source, "filename", "")  # Pillow's own record of the file
    elif isinstance(source, FileBytes):
        source = source.path
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        return f"picture {index + 1}"
    text = os.fsdecode(source)
    if is_address(text):
        text = without_password(text)
    # A file's name can hold bytes that are no text, and control characters that would steer a terminal.
    text = text.encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _bytes_of(source: object, name: str, limits: Limits, allow_urls: bool) -> bytes:
    if isinstance(source, bytes):
        limits.check_bytes(len(source), name)
        return source
    if isinstance(source, str) and is_address(source):
        if not allow_urls:
            raise PictureRefused(name, "pictures are not fetched from addresses unless asked for (allow_urls)")
        return fetch(source, name, limits)
    if isinstance(source, str | os.PathLike):
        return _bytes_of_file(Path(source), name, limits)
    raise NotAPicture(
        name, f"a picture is a path, bytes, an array or a Pillow image; this is of type {type(source).__name__}"
    )


def _bytes_of_file(path: Path, name: str, limits: Limits) -> bytes:
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            return _bytes_of_open_file(file, name, limits)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureNotFound(name, "there is no such file") from error
    except IsADirectoryError as error:
        raise PictureUnreadable(name, "is a folder: name the pictures in it") from error
    except OSError as error:
        raise PictureUnreadable(name, f"can't be opened: {error.strerror}") from error
    except ValueError as error:  # a null character
        raise PictureNotFound(name, "no file can have this name") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a named pipe without a writer waits for ever


def _bytes_of_open_file(file: BinaryIO, name: str, limits: Limits) -> bytes:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise PictureUnreadable(name, "is a pipe or a device, not a file")
    limits.check_bytes(status.st_size, name)
    data = file.read(int(limits.megabytes * 1e6) + 1)  # it may grow meanwhile
    limits.check_bytes(len(data), name)
    return data


def _open(data: bytes, name: str, limits: Limits, reduce_to: int | None) -> Image.Image:
    if not data:
        raise NotAPicture(name, "is empty: 0 bytes")
    try:
        image, found = open_header(data, name)
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(name, "has more pixels than Pillow decodes of this format") from error
    except Exception as error:  # decoders meet damage with errors of any type
        raise PictureBroken(name, "begins as a picture and is damaged or cut short in its header") from error
    limits.check_shape(*image.size, name)  # of the full size: a reduced scale costs less, and varies with the caller
    if reduce_to is not None and found == "JPEG":
        image.draft(None, (REDUCTION_MARGIN * reduce_to, REDUCTION_MARGIN * reduce_to))
    return image


def _finish(image: Image.Image, name: str, limits: Limits) -> Image.Image:
    """Decode, bring to sRGB and turn upright."""
    limits.check_shape(*image.size, name)
    try:
        image.load()
        turn = turn_of(image)
        image = to_srgb(image, name)
        return image if turn is None else image.transpose(turn)
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureTooLarge(name, "has more pixels than Pillow decodes of this format") from error
    except Exception as error:  # decoders meet damage with errors of any type
        raise PictureBroken(name, "is damaged or cut short: its pixels can't be decoded") from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """Turn an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) into a Pillow image."""
    shape = " x ".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last: array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "; give the pictures of a batch one by one"
        raise NotAPicture(name, f"an array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), this one is {shape}{hint}")
    if array.size == 0:
        raise NotAPicture(name, f"an array without pixels: {shape}")
    if np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise NotAPicture(name, f"floats are in 0..1, these are in {low:g}..{high:g}: scale them")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise NotAPicture(name, f"an array is of uint8 or of floats in 0..1, this one is of {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(array)
