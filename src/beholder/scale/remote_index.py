"""Indexes on object storage: each machine keeps a copy in its cache and memory-maps that.

What a segment's folder holds follows from its name and never changes, so only segments that are new are copied, any
number of processes may share a copy, and any number of machines an index. ``index.json`` is copied last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beholder.errors import BeholderError, InvalidSetting
from beholder.files import atomic_file, atomic_folder, reported
from beholder.scale.segments import CELLS, CODES, INDEX, ROWS, VECTORS, Manifest, Segment, file_sha256
from beholder.scale.storage import Location, reason_of
from beholder.weights.cache import cache_folder

SEGMENT_FILES = (CODES, VECTORS, ROWS)


def local_folder(address: str) -> Path:
    """Return the folder of an index, or, if it is on object storage, that of its copy."""
    place = Location.of(address)
    if place.local is not None:
        return place.local
    return cache_folder() / "scale" / hashlib.sha256(place.files.unstrip_protocol(place.path).encode()).hexdigest()[:32]


def fetch_index(address: str, cells: bool = False) -> Path:
    """Bring the copy of an index up to date; return its folder. An index on a disk is left where it is.

    Args:
        address: of the index.
        cells: also copy the centroids, which only adding to the index needs.

    Raises:
        InvalidSetting: there is no index, or it can't be read.
        WriteFailed: the copy can't be written.
    """
    place, folder = Location.of(address), local_folder(address)
    if place.local is not None:
        return folder
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / INDEX) as scratch:
            with _read_from(address):
                (place / INDEX).download(scratch)
            manifest = Manifest.load(scratch.parent)
            for segment in manifest.segments:
                if not (folder / segment.folder).exists():
                    _fetch_segment(place, segment, folder)
            if cells and not (folder / CELLS).exists():
                with atomic_file(folder / CELLS) as trained, _read_from(address):
                    (place / CELLS).download(trained)
    return folder


def publish_index(folder: Path, address: str) -> None:
    """Copy an index that was built in a folder to object storage; what is there already is not copied again.

    Raises:
        WriteFailed: it can't be written.
    """
    place, manifest = Location.of(address), Manifest.load(folder)
    names = [CELLS, *(f"{one.folder}/{name}" for one in manifest.segments for name in SEGMENT_FILES)]
    for name in names:
        if (place / name).size() != (folder / name).stat().st_size:
            (place / name).upload(folder / name)
    (place / INDEX).upload(folder / INDEX)


def _fetch_segment(place: Location, segment: Segment, folder: Path) -> None:
    with atomic_folder(folder / segment.folder, replace=False) as scratch:
        for name in SEGMENT_FILES:
            with _read_from(place.address):
                (place / f"{segment.folder}/{name}").download(scratch / name)
        if file_sha256(scratch / CODES) != segment.sha256:
            raise InvalidSetting(f"{place.address}/{segment.folder}/{CODES}: is damaged; publish the index again")


@contextmanager
def _read_from(address: str) -> Iterator[None]:
    """Name the address in errors of any file system."""
    try:
        yield
    except BeholderError:
        raise
    except FileNotFoundError as error:
        raise InvalidSetting(
            f"{address}: there is no index here; build it: beholder scale index ADDRESS --out …"
        ) from error
    except Exception as error:  # every file system raises its own
        raise InvalidSetting(f"{address}: can't be read: {reason_of(error)}") from error
