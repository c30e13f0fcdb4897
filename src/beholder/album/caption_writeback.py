"""A caption that goes from the album into the pictures' own metadata, without the album taking them for new ones.

A caption changes the bytes of a JPEG or PNG but none of its pixels. So the vectors stay, and the hash by which the
content is known is the only thing that changes, after the files are written. Ended in between, the next `index` sees
changed files and reads them anew.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from beholder.album.store import FileStamp, Store
from beholder.errors import PictureNotFound, PictureUnreadable
from beholder.pictures.caption_metadata import write_caption
from beholder.pictures.photo_metadata import photo_metadata
from beholder.pictures.read import display_name, read_file
from beholder.pictures.sidecar import sidecar_time


def write_caption_to_files(store: Store, content: int, caption: str) -> list[Path]:
    """Writes a caption into the metadata of all files of a content, or beside those that can't hold it.

    Returns:
        What was written: pictures or sidecars.

    Raises:
        PictureError: a file is gone, is a link, has changed since it was indexed, or can't be written.
    """
    known = store.scalar("SELECT sha256 FROM content WHERE id = ?", (content,))
    paths = [row[0] for row in store.query("SELECT path FROM picture WHERE content = ? ORDER BY path", (content,))]
    if not paths:
        raise PictureNotFound(f"picture {content}", "is not in the album any more")
    files = [Path(os.fsdecode(path)) for path in paths]
    for file in files:  # all are looked at before any is written
        if file.is_symlink():
            raise PictureUnreadable(display_name(file, 0), "is a link to a file elsewhere; it was left alone")
        if hashlib.sha256(read_file(file)).digest() != known:
            raise PictureUnreadable(
                display_name(file, 0), "has changed since it was indexed; index it again, then write its caption"
            )
    written = [write_caption(file, caption) for file in files]
    stamps = [_stamp(file) for file in files]
    data = [read_file(file) for file in files]
    hashes = {hashlib.sha256(each).digest() for each in data}
    if len(hashes) == 1:  # else some have sidecars and some do not: they are copies no longer, which `index` sorts out
        metadata = photo_metadata(data[0], files[0])
        store.rewritten(content, hashes.pop(), list(zip(paths, stamps, strict=True)), metadata)
    return written


def _stamp(file: Path) -> FileStamp:
    status = file.stat()
    return FileStamp(status.st_size, status.st_mtime_ns, sidecar_time(file))
