"""The files of an album: what is known of them, and how an index run changes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from beholder.album.picture import short_name
from beholder.album.store.connection import Store
from beholder.album.store.descriptions import FILE_SOURCE, set_description, update_text_index
from beholder.pictures.photo_metadata import PhotoMetadata

UNDER = "(path = ? OR (path > ? AND path < ?))"


def under(root: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the values bound to `UNDER`: a file itself, or everything in a folder."""
    stem = root.rstrip(b"/")
    return root, stem + b"/", stem + b"0"  # "0" follows "/"


class FileStamp(NamedTuple):
    """What tells that a file is unchanged.

    Attributes:
        size: bytes.
        modified: nanoseconds.
        sidecar: when its ``.xmp`` sidecar was modified; 0 without one.
    """

    size: int
    modified: int
    sidecar: int


class KnownFile(NamedTuple):
    """A file as the album knows it; ``embedded`` says whether the model in question has embedded it."""

    stamp: FileStamp
    embedded: bool


def files_under(store: Store, roots: Sequence[bytes], model: int) -> dict[bytes, KnownFile]:
    """Return the files below some folders, or some single files, that the album knows."""
    found: dict[bytes, KnownFile] = {}
    for root in roots:
        for path, size, modified, sidecar, embedded in store.query(
            f"""SELECT path, size, modified, sidecar, vector.id IS NOT NULL FROM picture
            LEFT JOIN vector ON vector.content = picture.content AND vector.model = ? WHERE {UNDER}""",
            (model, *under(root)),
        ):
            found[path] = KnownFile(FileStamp(size, modified, sidecar), bool(embedded))
    return found


def has_file(store: Store, path: bytes) -> bool:
    """Return whether a path is in the album."""
    return store.scalar("SELECT 1 FROM picture WHERE path = ?", (path,)) is not None


def add_file(
    store: Store,
    path: bytes,
    stamp: FileStamp,
    sha256: bytes,
    metadata: PhotoMetadata,
    model: int,
    vector: np.ndarray | None,
    present: set[bytes],
) -> tuple[Literal["added", "changed", "moved", "unchanged"], bytes | None]:
    """Put one file into the album, inside a transaction.

    Args:
        store: the album.
        path: of the file.
        stamp: taken before it was read.
        sha256: of its bytes.
        metadata: of the file.
        model: that made the embedding.
        vector: embedding (E,), or None if the album has it already.
        present: all paths found in this run. A file of the same content that is neither among them nor on disk is
            this file before it was moved.

    Returns:
        What happened, and for a moved file its former path.
    """
    content = _content_of(store, sha256, metadata)
    new = 0
    if vector is not None:
        data = vector.astype(np.float16).tobytes()
        new = store.execute(
            "INSERT OR IGNORE INTO vector (model, content, data) VALUES (?, ?, ?)", (model, content, data)
        )
    set_description(store, content, FILE_SOURCE, metadata.caption, metadata.tags)
    store.execute("DELETE FROM failed WHERE path = ?", (path,))
    old = store.scalar("SELECT content FROM picture WHERE path = ?", (path,))
    status: Literal["added", "changed", "moved", "unchanged"] = "unchanged"
    former = None
    if old is None:
        former = _former_path(store, content, present)
        if former is None:
            status = "added"
            store.execute(
                "INSERT INTO picture (path, name, size, modified, sidecar, content) VALUES (?, ?, ?, ?, ?, ?)",
                (path, short_name(path), *stamp, content),
            )
        else:
            status = "moved"
            store.execute("UPDATE picture SET path = ?, name = ? WHERE path = ?", (path, short_name(path), former))
    elif old != content:
        status = "changed"
    elif new:
        status = "added"  # to the embeddings of this model
    store.execute(
        "UPDATE picture SET size = ?, modified = ?, sidecar = ?, content = ? WHERE path = ?", (*stamp, content, path)
    )
    update_text_index(store, "content = ?", (content,))
    return status, former


def _content_of(store: Store, sha256: bytes, metadata: PhotoMetadata) -> int:
    store.execute(
        """INSERT INTO content (sha256, width, height, format, taken, camera, latitude, longitude)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sha256) DO NOTHING""",
        (
            sha256,
            metadata.width,
            metadata.height,
            metadata.format,
            metadata.taken,
            metadata.camera,
            metadata.latitude,
            metadata.longitude,
        ),
    )
    return store.scalar("SELECT id FROM content WHERE sha256 = ?", (sha256,))


def _former_path(store: Store, content: int, present: set[bytes]) -> bytes | None:
    for (path,) in store.query("SELECT path FROM picture WHERE content = ? ORDER BY path", (content,)):
        if path not in present and not os.path.lexists(path):
            return path
    return None


def replace_hash(
    store: Store, content: int, sha256: bytes, files: Sequence[tuple[bytes, FileStamp]], metadata: PhotoMetadata
) -> None:
    """Record that all files of a content have other bytes now and the same pixels; all else is kept.

    Where another content has these bytes already nothing is done: the next index run sorts it out.
    """
    with store.transaction():
        if store.scalar("SELECT 1 FROM content WHERE sha256 = ? AND id != ?", (sha256, content)) is not None:
            return
        store.execute("UPDATE content SET sha256 = ? WHERE id = ?", (sha256, content))
        for path, stamp in files:
            store.execute(
                "UPDATE picture SET size = ?, modified = ?, sidecar = ? WHERE path = ? AND content = ?",
                (*stamp, path, content),
            )
        set_description(store, content, FILE_SOURCE, metadata.caption, metadata.tags)
        update_text_index(store, "content = ?", (content,))


def add_failure(store: Store, path: bytes, reason: str, *, remove: bool) -> None:
    """Record a file that can't be used, inside a transaction; ``remove`` takes it out of the album."""
    if remove:
        remove_file(store, path)
    store.execute("INSERT OR REPLACE INTO failed (path, reason) VALUES (?, ?)", (path, reason))


def failures(store: Store) -> list[tuple[bytes, str]]:
    """Return the files that could not be used, each with the reason."""
    return store.query("SELECT path, reason FROM failed ORDER BY path")


def remove_file(store: Store, path: bytes) -> None:
    """Remove a file from the album, inside a transaction."""
    store.execute("DELETE FROM words WHERE rowid = (SELECT id FROM picture WHERE path = ?)", (path,))
    store.execute("DELETE FROM picture WHERE path = ?", (path,))


def clean_up(store: Store, roots: Sequence[bytes], failed: set[bytes]) -> None:
    """Remove contents without a file, and failures below the roots that are not among ``failed``."""
    with store.transaction():
        store.execute("DELETE FROM content WHERE id NOT IN (SELECT content FROM picture)")
        for root in roots:
            for (path,) in store.query(f"SELECT path FROM failed WHERE {UNDER}", under(root)):
                if path not in failed:
                    store.execute("DELETE FROM failed WHERE path = ?", (path,))


def root_device(store: Store, root: bytes) -> int | None:
    """Return the number of the device on which a root lay when it was last indexed."""
    return store.scalar("SELECT device FROM root WHERE path = ?", (root,))


def add_root(store: Store, root: bytes, device: int) -> None:
    """Record that a folder was indexed."""
    with store.transaction():
        store.execute("INSERT OR REPLACE INTO root (path, device) VALUES (?, ?)", (root, device))
