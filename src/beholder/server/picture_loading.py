"""The pictures of a request, counted before anything is decoded.

They are given as data URLs, as pictures of a served album (``album:NAME/NUMBER``) and, where allowed, by http(s) URLs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from beholder.errors import PictureBroken, PictureError, PictureRefused, PictureTooLarge
from beholder.pictures.formats import header_damage, open_image
from beholder.pictures.limits import Limits
from beholder.pictures.preprocess import AnyPreprocessing
from beholder.pictures.read import FileBytes
from beholder.pictures.url import fetch, is_url
from beholder.server.settings import ServerSettings
from beholder.tasks.pictures import Picture, decode_picture, preprocess_image

ALBUM_SCHEME = "album:"
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+\"-]*)*)(;base64)?,", re.ASCII | re.IGNORECASE)

AlbumFile = Callable[[str, str], FileBytes]


def is_data_url(text: str) -> bool:
    """Return whether a text is a picture as a data URL (RFC 2397)."""
    return text[:11].lower() == "data:image/"


def load_pictures(
    urls: Sequence[str | bytes],
    preprocessing: AnyPreprocessing | None,
    settings: ServerSettings,
    album_file: AlbumFile | None = None,
    fetched: Mapping[str, bytes] | None = None,
) -> list[Picture]:
    """Decode the pictures of a request; blocks.

    Their number is checked before any is fetched, and their total number of pixels before any is decoded.

    Args:
        urls: Where the pictures are; or uploaded files.
        preprocessing: The network's preprocessing; None for a model that takes pictures as they are.
        settings: The server's limits. Album pictures may be as large as albums accept them.
        album_file: Returns the file of an album's picture, given its URL and the name to use in error messages.
        fetched: The bytes behind http(s) URLs, by URL.

    Raises:
        PictureError: A picture can't be used; its name is its position in the request.
    """
    check_count(urls, settings)
    encoded: list[_EncodedPicture] = []
    for index, url in enumerate(urls):
        encoded.append(_resolve(url, f"picture {index + 1}", settings, album_file, fetched or {}))
        check_total_bytes((each.data for each in encoded if each.limits is settings.limits), settings)
    pixels = sum(map(_count_pixels, encoded))
    if pixels > settings.megapixels * 1e6:
        raise PictureTooLarge(
            "the request", f"contains {pixels / 1e6:.0f} megapixels; the limit is {settings.megapixels:g} megapixels"
        )
    if preprocessing is None:
        return [decode_picture(each.data, each.name, limits=each.limits) for each in encoded]
    return [preprocess_image(each.data, preprocessing, name=each.name, limits=each.limits) for each in encoded]


def check_count(urls: Sequence[str | bytes], settings: ServerSettings) -> None:
    """Raise `PictureTooLarge` for more pictures than a request may contain."""
    if len(urls) > settings.pictures:
        raise PictureTooLarge("the request", f"contains {len(urls)} pictures; the limit is {settings.pictures}")


def check_total_bytes(files: Iterable[bytes | FileBytes], settings: ServerSettings) -> None:
    """Raise `PictureTooLarge` if the encoded pictures of a request are larger than a body may be."""
    if sum(map(len, files)) > settings.body_megabytes * 1e6:
        raise PictureTooLarge("the request", f"contains pictures of more than {settings.body_megabytes:g} MB")


def fetch_url(url: str, name: str, settings: ServerSettings) -> bytes:
    """Return the bytes of a picture at an http(s) URL; blocks, and raises what `fetch` raises."""
    return fetch(url, name, settings.limits)


class _EncodedPicture(NamedTuple):
    """The bytes of a picture, its name in error messages, and its limits."""

    data: bytes
    name: str
    limits: Limits


def _resolve(
    url: str | bytes, name: str, settings: ServerSettings, album_file: AlbumFile | None, fetched: Mapping[str, bytes]
) -> _EncodedPicture:
    if isinstance(url, bytes):
        settings.limits.check_bytes(len(url), name)
        return _EncodedPicture(url, name, settings.limits)
    if url[:5].lower() == "data:":
        return _EncodedPicture(_decode_data_url(url, name, settings), name, settings.limits)
    if url.startswith(ALBUM_SCHEME):
        if album_file is None:
            raise PictureRefused(name, "this server serves no album")
        return _EncodedPicture(album_file(url, name), name, Limits())
    if not is_url(url):
        raise PictureRefused(name, "send a data URL: data:image/jpeg;base64,…")
    if not settings.allow_urls:
        raise PictureRefused(name, "this server fetches no URLs: send a data URL (data:image/jpeg;base64,…)")
    return _EncodedPicture(fetched[url], name, settings.limits)


def _decode_data_url(url: str, name: str, settings: ServerSettings) -> bytes:
    head = DATA_URL.match(url[:200])
    if head is None or not head[3]:
        raise PictureRefused(name, "its data URL does not have the form data:image/jpeg;base64,…")
    settings.limits.check_bytes((len(url) - head.end()) * 3 // 4 - 2, name)
    try:
        return base64.b64decode(url[head.end() :].encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureBroken(name, "its data URL is not valid base64") from error


def _count_pixels(picture: _EncodedPicture) -> int:
    """Return the number of pixels according to the header."""
    try:
        width, height = open_image(picture.data, picture.name)[0].size
    except PictureError:
        raise
    except Exception as error:  # decoders raise errors of any type for damaged files
        raise PictureBroken(picture.name, header_damage(picture.name)) from error
    picture.limits.check_shape(width, height, picture.name)
    return int(width * height)
