"""Writing a caption from the album into the metadata of the pictures' files, which the album still recognizes after.

A caption changes the bytes of a JPEG or PNG but none of its pixels. So the embeddings stay valid, and the hash that
identifies the content is all that changes, after the files are written. If this is interrupted in between, the next
index run finds changed files and reads them again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from beholder.album.file_stamp import stamp_of
from beholder.album.store import pictures
from beholder.album.store.connection import Store
from beholder.album.store.files import replace_hash
from beholder.errors import PictureNotFound, PictureUnreadable
from beholder.pictures.caption_metadata import write_caption
from beholder.pictures.photo_metadata import photo_metadata
from beholder.pictures.read import display_name, read_file


def write_caption_to_files(store: Store, content: int, caption: str) -> list[Path]:
    """Write a caption into the metadata of all files of a content, or into sidecars of those that can't hold it.

    Returns:
        The files written: pictures or sidecars.

    Raises:
        PictureError: a file is missing, is a link, has changed since it was indexed, or can't be written.
    """
    known = pictures.sha256_of(store, content)
    paths = pictures.paths_of(store, content)
    if not paths:
        raise PictureNotFound(f"picture {content}", "is not in the album any more")
    files = [Path(os.fsdecode(path)) for path in paths]
    for file in files:  # all are checked before any is written
        if file.is_symlink():
            raise PictureUnreadable(display_name(file, 0), "is a link to a file elsewhere; it was left alone")
        if hashlib.sha256(read_file(file)).digest() != known:
            raise PictureUnreadable(
                display_name(file, 0), "has changed since it was indexed; index it again, then write its caption"
            )
    written = [write_caption(file, caption) for file in files]
    stamps = [stamp_of(file, file.stat()) for file in files]
    data = [read_file(file) for file in files]
    hashes = {hashlib.sha256(each).digest() for each in data}
    if len(hashes) == 1:  # otherwise only some have sidecars, so they are copies no longer: the next index run sorts it
        metadata = photo_metadata(data[0], files[0])
        replace_hash(store, content, hashes.pop(), list(zip(paths, stamps, strict=True)), metadata)
    return written
