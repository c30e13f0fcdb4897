"""RAW files and the JPEG of the same shot, which are one picture: the JPEG is in the album, the RAW belongs to it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from beholder.album.store import files
from beholder.album.store.connection import Store
from beholder.errors import PictureError
from beholder.pictures.dates import parse_date
from beholder.pictures.formats import open_image
from beholder.pictures.raw import RAW_EXTENSIONS
from beholder.pictures.read import read_file

_RAW = {extension.encode() for extension in RAW_EXTENSIONS}
_SHOWN = (
    b".jpg",
    b".jpeg",
    b".jpe",
    b".heic",
    b".heif",
    b".hif",
)  # which cameras write beside a RAW; the first is shown
_EXIF_IFD, _ORIGINAL = 0x8769, 0x9003
_SAME_SHOT = 2.0  # seconds


def find_pairs(store: Store, paths: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the JPEG of the same shot by the path of each RAW that has one.

    Both are in one folder, called the same but for their extension, and were taken at the same time, if both say when.
    """
    raws: list[bytes] = []
    shown: dict[bytes, list[tuple[int, bytes]]] = {}
    for path in paths:
        stem, extension = _split(path)
        if extension in _RAW:
            raws.append(path)
        elif extension in _SHOWN:
            shown.setdefault(stem, []).append((_SHOWN.index(extension), path))
    pairs = {}
    for path in raws:
        candidates = shown.get(_split(path)[0])
        if candidates is not None:
            partner = min(candidates)[1]
            if files.companion_of(store, path) == partner or _same_shot(path, partner):
                pairs[path] = partner
    return pairs


def _split(path: bytes) -> tuple[bytes, bytes]:
    folder, _, name = path.rpartition(b"/")
    stem, dot, extension = name.lower().rpartition(b".")
    return folder + b"/" + stem, dot + extension


def _same_shot(one: bytes, other: bytes) -> bool:
    times = [_taken(Path(os.fsdecode(path))) for path in (one, other)]
    if times[0] is None or times[1] is None:
        return True
    return abs((times[0] - times[1]).total_seconds()) <= _SAME_SHOT


def _taken(path: Path) -> datetime | None:
    """Return when a file's EXIF says that it was taken."""
    try:
        image, _ = open_image(read_file(path), str(path))
        text = image.getexif().get_ifd(_EXIF_IFD).get(_ORIGINAL)
    except PictureError:
        return None
    except Exception:  # decoders raise errors of any type on damaged data
        return None
    found = parse_date(text) if isinstance(text, str) else None
    return None if found is None else datetime.fromisoformat(found)
