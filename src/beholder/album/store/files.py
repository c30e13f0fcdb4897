"""The files of an album: what is known of them, and how an index run changes it.

What a person writes about a picture belongs to its content, and where the content of a path changes it passes on to the
new content. A described content outlives its files until it is forgotten explicitly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from beholder.album.file_stamp import FileStamp
from beholder.album.picture import short_name
from beholder.album.store import descriptions
from beholder.album.store.connection import Store
from beholder.album.store.descriptions import DESCRIBED, FILE_SOURCE, set_description, update_text_index
from beholder.album.store.pictures import content_ids
from beholder.pictures.photo_metadata import PhotoMetadata

Outcome = Literal["added", "changed", "moved", "unchanged"]

# Columns of ``content`` and fields of `PhotoMetadata`
METADATA = (
    *("width", "height", "format", "taken", "camera", "latitude", "longitude"),
    *("rating", "label", "headline", "creator", "city", "country"),
)
UNDER = "(path = ? OR (path > ? AND path < ?))"


def under(root: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the values bound to `UNDER`: a file itself, or everything in a folder."""
    stem = root.rstrip(b"/")
    return root, stem + b"/", stem + b"0"  # "0" follows "/"


class KnownFile(NamedTuple):
    """A file as the album knows it; ``embedded`` says whether the model in question has embedded it."""

    stamp: FileStamp
    embedded: bool


@dataclass
class RunState:
    """What an index run has found on disk and changed.

    Attributes:
        present: all paths.
        arrived: `FileStamp.across_moves` of the paths that are not in the album.
        departed: contents that files had at the beginning of this run and have no more.
    """

    present: set[bytes] = field(default_factory=set)
    arrived: set[tuple[int, int, int]] = field(default_factory=set)
    departed: set[int] = field(default_factory=set)


def files_under(store: Store, roots: Sequence[bytes], model: int) -> dict[bytes, KnownFile]:
    """Return the files below some folders, or some single files, that the album knows."""
    found: dict[bytes, KnownFile] = {}
    for root in roots:
        for path, size, modified, sidecar, changed, inode, embedded in store.query(
            f"""SELECT path, size, modified, sidecar, changed, inode, vector.id IS NOT NULL FROM picture
            LEFT JOIN vector ON vector.content = picture.content AND vector.model = ? WHERE {UNDER}""",
            (model, *under(root)),
        ):
            stamp = FileStamp(size, modified, sidecar, changed, inode)
            found[path] = KnownFile(stamp, bool(embedded) and (path not in found or found[path].embedded))
    return found


def has_file(store: Store, path: bytes) -> bool:
    """Return whether a path is in the album."""
    return store.scalar("SELECT 1 FROM picture WHERE path = ?", (path,)) is not None


def paths_by_inode(store: Store, inode: int) -> list[bytes]:
    """Return the files of the album that had this inode when they were indexed."""
    return [row[0] for row in store.query("SELECT path FROM picture WHERE inode = ? ORDER BY path", (inode,))]


def refresh_stamps(store: Store, stamps: dict[bytes, FileStamp]) -> None:
    """Store stamps of unchanged files, which an earlier version stored in part."""
    with store.transaction():
        for path, stamp in stamps.items():
            store.execute(f"UPDATE picture SET {STAMP} WHERE path = ?", (*stamp, path))


STAMP = "size = ?, modified = ?, sidecar = ?, changed = ?, inode = ?"


def add_file(
    store: Store,
    path: bytes,
    stamp: FileStamp,
    sha256: bytes,
    metadata: PhotoMetadata,
    model: int,
    vector: np.ndarray | None,
    run: RunState,
    time: int = -1,
) -> tuple[Outcome, bytes | None]:
    """Put one file into the album, inside a transaction.

    Args:
        store: the album.
        path: of the file.
        stamp: taken before it was read.
        sha256: of its bytes.
        metadata: of the file.
        model: that made the embedding.
        vector: embedding (E,), or None if the album has it already.
        run: state of this index run. A file of the same content that is neither in it nor on disk is this one before
            it was moved.
        time: milliseconds of a frame in a video; -1 of a picture.

    Returns:
        What happened, and for a moved file its former path.
    """
    known = store.scalar("SELECT id FROM content WHERE sha256 = ?", (sha256,))
    content = _set_content(store, sha256, metadata)
    new = 0
    if vector is not None:
        data = vector.astype(np.float16).tobytes()
        sql = "INSERT OR IGNORE INTO vector (model, content, data) VALUES (?, ?, ?)"
        new = store.execute(sql, (model, content, data))
    set_description(store, content, FILE_SOURCE, metadata.caption, metadata.tags)
    store.execute("DELETE FROM failed WHERE path = ?", (path,))
    sql = "SELECT content, size, modified, sidecar, changed, inode FROM picture WHERE path = ? AND time = ?"
    old, *old_stamp = next(iter(store.query(sql, (path, time))), (None,))
    outcome: Outcome = "unchanged"
    former = None
    if old is None:
        former = _former_path(store, path, content, run.present)
        if former is None:
            outcome = "added"
            if time < 0:  # other frames of a video show something else
                _inherit(store, path, descriptions.last_described_at(store, path), content, known is None, run)
            store.execute(
                "INSERT INTO picture (path, time, name, size, modified, sidecar, changed, inode, content) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (path, time, short_name(path), *stamp, content),
            )
        else:
            outcome = "moved"
            descriptions.remember_path(store, former, content)
            sql = "UPDATE picture SET path = ?, name = ? WHERE path = ? AND time = ?"
            store.execute(sql, (path, short_name(path), former, time))
    elif old != content:
        outcome = "changed"
        descriptions.remember_path(store, path, old)
        if FileStamp(*old_stamp).across_moves not in run.arrived:  # else the described file is elsewhere now
            _inherit(store, path, old, content, known is None, run)
        run.departed.add(old)
    elif new:
        outcome = "added"  # to the embeddings of this model
    store.execute(f"UPDATE picture SET {STAMP}, content = ? WHERE path = ? AND time = ?", (*stamp, content, path, time))
    update_text_index(store, "picture.content = ?", (content,))
    return outcome, former


def _set_content(store: Store, sha256: bytes, metadata: PhotoMetadata) -> int:
    """Add a content, or update the metadata of one that is known, whose sidecar may have changed."""
    sql = f"""INSERT INTO content (sha256, {", ".join(METADATA)}) VALUES (?{", ?" * len(METADATA)})
        ON CONFLICT (sha256) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in METADATA)}"""
    store.execute(sql, (sha256, *(getattr(metadata, name) for name in METADATA)))
    return store.scalar("SELECT id FROM content WHERE sha256 = ?", (sha256,))


def _former_path(store: Store, path: bytes, content: int, present: set[bytes]) -> bytes | None:
    """Return the path from which a file was moved, or at which it is in the album through a link."""
    for (known,) in store.query("SELECT path FROM picture WHERE content = ? ORDER BY path", (content,)):
        if known not in present and (not os.path.lexists(known) or os.path.realpath(known) == os.path.realpath(path)):
            return known
    return None


def _inherit(store: Store, path: bytes, earlier: int | None, content: int, new: bool, run: RunState) -> None:
    """Describe what is at a path now as a person described what was there before.

    A content that the album knows from elsewhere is another picture, of which two may have changed places. One that was
    at this path before is the same picture, of which a change was undone.
    """
    if earlier is None or earlier == content:
        return
    if not new:
        alive = store.scalar("SELECT 1 FROM picture WHERE content = ?", (content,)) is not None
        if alive or content in run.departed or not descriptions.was_at(store, path, content):
            return
    descriptions.copy_descriptions(store, earlier, content)


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
        _set_content(store, sha256, metadata)
        for path, stamp in files:
            store.execute(f"UPDATE picture SET {STAMP} WHERE path = ? AND content = ?", (*stamp, path, content))
        set_description(store, content, FILE_SOURCE, metadata.caption, metadata.tags)
        update_text_index(store, "picture.content = ?", (content,))


def video_paths(store: Store, roots: Sequence[bytes]) -> set[bytes]:
    """Return the videos in some folders, of which the album holds frames."""
    found: set[bytes] = set()
    for root in roots:
        sql = f"SELECT DISTINCT path FROM picture WHERE time >= 0 AND {UNDER}"
        found |= {row[0] for row in store.query(sql, under(root))}
    return found


def frame_times(store: Store, size: int) -> set[tuple[int, ...]]:
    """Return the milliseconds of the frames of each video with this size in bytes."""
    times: dict[bytes, list[int]] = {}
    sql = "SELECT path, time FROM picture WHERE size = ? AND time >= 0 ORDER BY path, time"
    for path, time in store.query(sql, (size,)):
        times.setdefault(path, []).append(time)
    return {tuple(each) for each in times.values()}


def remove_other_frames(store: Store, path: bytes, times: Sequence[int]) -> None:
    """Remove the frames of a video that are at none of these milliseconds, inside a transaction."""
    for row, content, time in store.query("SELECT id, content, time FROM picture WHERE path = ?", (path,)):
        if time not in times:
            _remove_row(store, path, row, content)


def companion_of(store: Store, raw: bytes) -> bytes | None:
    """Return the JPEG of the same shot as a RAW file that is not in the album for its sake."""
    return store.scalar("SELECT picture FROM raw_companion WHERE path = ?", (raw,))


def raw_files_of(store: Store, paths: Sequence[bytes]) -> list[bytes]:
    """Return the RAW files of the same shots as some JPEGs."""
    return [row[0] for row in store.query_in("SELECT path FROM raw_companion WHERE picture IN ({marks})", paths)]


def set_companions(store: Store, companions: Mapping[bytes, bytes], roots: Sequence[bytes]) -> None:
    """Record the RAW files in some folders that belong to a JPEG; what a person said of them passes on to it."""
    with store.transaction():
        for raw, picture in companions.items():
            store.execute("INSERT OR REPLACE INTO raw_companion (path, picture) VALUES (?, ?)", (raw, picture))
            contents = content_ids(store, [raw, picture])
            if raw in contents and picture in contents:
                descriptions.copy_descriptions(store, contents[raw], contents[picture])
                update_text_index(store, "picture.content = ?", (contents[picture],))
        for root in roots:
            for (path,) in store.query(f"SELECT path FROM raw_companion WHERE {UNDER}", under(root)):
                if path not in companions:
                    store.execute("DELETE FROM raw_companion WHERE path = ?", (path,))


def add_failure(store: Store, path: bytes, reason: str, *, remove: bool) -> None:
    """Record a file that can't be used, inside a transaction; ``remove`` takes it out of the album."""
    if remove:
        remove_file(store, path)
    store.execute("INSERT OR REPLACE INTO failed (path, reason) VALUES (?, ?)", (path, reason))


def failures(store: Store) -> list[tuple[bytes, str]]:
    """Return the files that could not be used, each with the reason."""
    return store.query("SELECT path, reason FROM failed ORDER BY path")


def remove_file(store: Store, path: bytes) -> None:
    """Remove a file from the album, inside a transaction; its user description is kept."""
    for row, content in store.query("SELECT id, content FROM picture WHERE path = ?", (path,)):
        _remove_row(store, path, row, content)


def _remove_row(store: Store, path: bytes, row: int, content: int) -> None:
    descriptions.remember_path(store, path, content)
    store.execute("DELETE FROM words WHERE rowid = ?", (row,))
    store.execute("DELETE FROM picture WHERE id = ?", (row,))


def clean_up(store: Store, roots: Sequence[bytes], failed: set[bytes]) -> None:
    """Remove contents without a file, down to their descriptions, and failures that are not among ``failed``."""
    with store.transaction():
        store.execute(f"DELETE FROM content WHERE id NOT IN (SELECT content FROM picture) AND id NOT IN ({DESCRIBED})")
        for content in descriptions.kept_descriptions(store):
            for table in ("vector", "place", "appearance", "pixel_hash", "recognized", "located"):
                store.execute(f"DELETE FROM {table} WHERE content = ?", (content,))
            for table in ("caption", "tag"):
                store.execute(f"DELETE FROM {table} WHERE content = ? AND source = ?", (content, FILE_SOURCE))
        for root in roots:
            for (path,) in store.query(f"SELECT path FROM failed WHERE {UNDER}", under(root)):
                if path not in failed:
                    store.execute("DELETE FROM failed WHERE path = ?", (path,))


def forget(store: Store, roots: Sequence[bytes] | None) -> int:
    """Remove what the album keeps of missing files: descriptions, and pictures on drives that are not mounted.

    Args:
        store: the album.
        roots: only of files in these folders; None for all descriptions.

    Returns:
        The number of pictures that had a description.
    """
    with store.transaction():
        for root in roots or ():
            for (path,) in store.query(f"SELECT path FROM picture WHERE {UNDER}", under(root)):
                if not os.path.lexists(path):
                    remove_file(store, path)
            store.execute(f"DELETE FROM mount WHERE {UNDER}", under(root))
        contents = descriptions.kept_descriptions(store, roots)
        for content in contents:
            store.execute("DELETE FROM content WHERE id = ?", (content,))
    return len(contents)


def root_paths(store: Store) -> list[bytes]:
    """Return the folders that were indexed."""
    return [row[0] for row in store.query("SELECT path FROM root ORDER BY path")]


def root_device(store: Store, root: bytes) -> int | None:
    """Return the number of the device on which a root was when it was last indexed."""
    return store.scalar("SELECT device FROM root WHERE path = ?", (root,))


def add_root(store: Store, root: bytes, device: int) -> None:
    """Record that a folder was indexed."""
    with store.transaction():
        store.execute("INSERT OR REPLACE INTO root (path, device) VALUES (?, ?)", (root, device))


def other_spellings(store: Store, roots: Sequence[bytes]) -> list[bytes]:
    """Return indexed folders that are among the roots, or in one, by another path: a link, or one with ``..``."""
    found = []
    for (path,) in store.query("SELECT path FROM root"):
        real = os.path.realpath(path)
        if real != path and any(real == root or real.startswith(root.rstrip(b"/") + b"/") for root in roots):
            found.append(path)
    return found


def merge_root(store: Store, path: bytes) -> None:
    """Drop the record of a root that is known by another path now."""
    with store.transaction():
        store.execute("DELETE FROM root WHERE path = ?", (path,))


def unmounted(store: Store, roots: Sequence[bytes]) -> list[bytes]:
    """Return the mount points below the roots that had pictures and are not mounted now."""
    found = []
    for root in roots:
        found += [row[0] for row in store.query(f"SELECT path FROM mount WHERE {UNDER}", under(root))]
    return [path for path in dict.fromkeys(found) if not os.path.ismount(path)]


def add_mounts(store: Store, paths: Sequence[bytes]) -> None:
    """Record mount points with pictures."""
    with store.transaction():
        for path in paths:
            store.execute("INSERT OR IGNORE INTO mount (path) VALUES (?)", (path,))
