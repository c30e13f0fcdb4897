"""Pictures in a request, counted before anything is decoded.

They are given as data addresses, as pictures of an album that is served (``album:NAME/NUMBER``) and, where allowed, by
http(s) addresses.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import NamedTuple

from beholder.errors import PictureBroken, PictureError, PictureRefused, PictureTooLarge
from beholder.pictures.formats import open_image
from beholder.pictures.limits import Limits
from beholder.pictures.read import FileBytes
from beholder.pictures.transform import Preprocessing
from beholder.pictures.url import fetch, is_url
from beholder.server.settings import ServerSettings
from beholder.tasks.pictures import PreprocessedImage, preprocess_image

ALBUM = "album:"
DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+\"-]*)*)(;base64)?,", re.ASCII | re.IGNORECASE)


def is_data(text: str) -> bool:
    """Whether a text is a picture as a data address (RFC 2397)."""
    return text[:11].lower() == "data:image/"


def read_all(
    addresses: list[str],
    preprocessing: Preprocessing,
    settings: ServerSettings,
    in_album: Callable[[str, str], FileBytes] | None = None,
) -> list[PreprocessedImage]:
    """The pictures of a request as a network takes them. Blocks: it fetches and decodes.

    The count is checked before any is fetched, and the pixels of all before any is decoded.

    Args:
        addresses: of the pictures.
        preprocessing: the network's.
        settings: the server's. Pictures of an album may be as large as an album takes them.
        in_album: gives the file of an album's picture, from its address and what errors call it.

    Raises:
        PictureError: one can't be used; its name is its place in the request.
    """
    if len(addresses) > settings.pictures:
        raise PictureTooLarge("the request", f"holds {len(addresses)} pictures; the limit is {settings.pictures}")
    given: list[_Given] = []
    for number, address in enumerate(addresses):
        given.append(_given(address, f"picture {number + 1}", settings, in_album))
        if sum(len(each.data) for each in given if each.limits is settings.limits) > settings.body_megabytes * 1e6:
            raise PictureTooLarge("the request", f"holds pictures of more than {settings.body_megabytes:g} MB")
    pixels = sum(map(_pixels, given))
    if pixels > settings.megapixels * 1e6:
        raise PictureTooLarge(
            "the request", f"holds {pixels / 1e6:.0f} million pixels; the limit is {settings.megapixels:g} million"
        )
    return [preprocess_image(each.data, preprocessing, name=each.name, limits=each.limits) for each in given]


class _Given(NamedTuple):
    """A picture's file, what errors call it, and what it may cost."""

    data: bytes
    name: str
    limits: Limits


def _given(
    address: str, name: str, settings: ServerSettings, in_album: Callable[[str, str], FileBytes] | None
) -> _Given:
    if address[:5].lower() == "data:":
        return _Given(_of_data(address, name, settings), name, settings.limits)
    if address.startswith(ALBUM):
        if in_album is None:
            raise PictureRefused(name, "this server serves no album")
        return _Given(in_album(address, name), name, Limits())
    if not is_url(address):
        raise PictureRefused(name, "a picture is given as a data address: data:image/jpeg;base64,…")
    if not settings.allow_urls:
        raise PictureRefused(name, "this server fetches no pictures: send a data address (data:image/jpeg;base64,…)")
    return _Given(fetch(address, name, settings.limits), name, settings.limits)


def _of_data(address: str, name: str, settings: ServerSettings) -> bytes:
    head = DATA.match(address[:200])
    if head is None or not head[3]:
        raise PictureRefused(name, "its data address is not of the form data:image/jpeg;base64,…")
    settings.limits.check_bytes((len(address) - head.end()) * 3 // 4 - 2, name)
    try:
        return base64.b64decode(address[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureBroken(name, "its data address holds something else than base64") from error


def _pixels(given: _Given) -> int:
    """From the header alone; a picture that has none is refused when it is read."""
    try:
        width, height = open_image(given.data, given.name)[0].size
    except PictureError:
        raise
    except Exception as error:  # decoders meet damage with errors of any type
        raise PictureBroken(given.name, "its header is damaged or truncated") from error
    given.limits.check_shape(width, height, given.name)
    return int(width * height)
