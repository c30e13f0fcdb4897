"""What tells that a file is unchanged without reading it."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from beholder.pictures.sidecar import find_sidecars

MAX_INTEGER = 2**63 - 1  # of SQLite


class FileStamp(NamedTuple):
    """What tells that a file is unchanged.

    Attributes:
        size: bytes.
        modified: nanoseconds.
        sidecar: a value that changes with its ``.xmp`` sidecars; 0 without any.
        changed: nanoseconds of the inode's last change, which programs can't set; 0 if not known.
        inode: which also tells a moved file from a copy; 0 if not known.
    """

    size: int
    modified: int
    sidecar: int
    changed: int = 0
    inode: int = 0

    def same_file(self, other: FileStamp) -> bool:
        """Return whether a file with the other stamp is unchanged."""
        return self[:3] == other[:3] and (self.changed == other.changed or 0 in (self.changed, other.changed))

    @property
    def across_moves(self) -> tuple[int, int, int]:
        """What stays the same when a file is moved within a file system."""
        return self.size, self.modified, self.inode


def stamp_of(path: Path, status: os.stat_result) -> FileStamp:
    """Return the stamp of a file with the given status."""
    sidecars = []
    for sidecar in find_sidecars(path):
        with suppress(OSError):
            beside = sidecar.stat()
            sidecars.append(f"{sidecar.name} {beside.st_size} {beside.st_mtime_ns} {beside.st_ctime_ns}")
    digest = hashlib.blake2b("\n".join(sidecars).encode("utf-8", "surrogateescape"), digest_size=7).digest()
    value = int.from_bytes(digest) if sidecars else 0
    inode = status.st_ino & MAX_INTEGER
    return FileStamp(status.st_size, status.st_mtime_ns, value, status.st_ctime_ns, inode)
