"""What the album keeps, and every way in which it is read and written: SQL lives here and in ``filters``.

Pictures are files; what they show is kept by the hash of their bytes (*content*), so that a copy or a moved file is
nothing new. Vectors belong to a content and a model. All text that is not ours is bound, never pasted into SQL.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import numpy as np

from beholder.album.schema import sqlite_errors
from beholder.pictures.photo_metadata import PhotoMetadata
from beholder.pictures.read import display_name

FILE_SOURCE = "file"  # the source of captions and tags that the picture's own metadata holds
USER_SOURCE = "user"  # the source of what a person says of it, which goes before all others


class FileStamp(NamedTuple):
    """By what a file is known to be unchanged: its size in bytes, its time and its sidecar's time in nanoseconds."""

    size: int
    modified: int
    sidecar: int


class KnownFile(NamedTuple):
    """A file as the album knows it; ``embedded`` says whether the model at hand has seen it."""

    stamp: FileStamp
    embedded: bool


@dataclass(frozen=True)
class IndexedModel:
    """A model whose vectors the album holds; ``folder`` and ``stamp`` are set where it is a folder of our format."""

    id: int
    fingerprint: str
    name: str
    embedding: int
    folder: str | None
    stamp: str | None


@dataclass(frozen=True)
class Picture:
    """One picture of the album.

    ``content`` is the number by which the album knows what it shows: it stays through moves and copies, is gone with
    the last file, and never comes again for another picture.
    """

    path: str
    content: int
    width: int
    height: int
    size: int
    taken: str | None
    camera: str | None
    caption: str | None
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path, safe to print."""
        return display_name(self.path, 0)


class Store:
    """One connection to one album. Several threads may share it, one at a time."""

    def __init__(self, connection: apsw.Connection, folder: Path):
        self.connection = connection
        self.folder = folder
        self.lock = threading.RLock()

    def close(self) -> None:
        """Closes the connection."""
        with self.lock:
            self.connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """The album stands still inside, however much another process writes."""
        with self.lock, sqlite_errors(self.folder):
            if self.connection.in_transaction:
                yield
                return
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                if self.connection.in_transaction:  # damage that was met ends it
                    self.connection.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside, on disk when it ends, or none of it."""
        with self.lock, sqlite_errors(self.folder):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # a full disk may have rolled it back already
                    self.connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, bound: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.lock, sqlite_errors(self.folder):
            return list(self.connection.execute(sql, tuple(bound)))

    def scalar(self, sql: str, bound: Sequence[Any] = ()) -> Any:
        """The first column of the first row; None where there is none."""
        rows = self.query(sql, bound)
        return rows[0][0] if rows else None

    # Models

    def models(self) -> list[IndexedModel]:
        """Those that have vectors here; first the one that was the last to index to the end."""
        rows = self.query("SELECT id, fingerprint, name, embedding, folder, stamp FROM model ORDER BY used DESC, id")
        return [IndexedModel(*row) for row in rows]

    def add_model(
        self, fingerprint: str, name: str, embedding: int, folder: str | None, stamp: str | None
    ) -> IndexedModel:
        """The model with this fingerprint, made if it is new."""
        with self.transaction():
            self.connection.execute(
                """INSERT INTO model (fingerprint, name, embedding, folder, stamp, used) VALUES (?, ?, ?, ?, ?, 0)
                ON CONFLICT (fingerprint) DO UPDATE SET name = excluded.name,
                folder = coalesce(excluded.folder, folder), stamp = coalesce(excluded.stamp, stamp)""",
                (fingerprint, name, embedding, folder, stamp),
            )
        return next(model for model in self.models() if model.fingerprint == fingerprint)

    def used(self, model: IndexedModel) -> None:
        """From now on a search that names no model goes by this one."""
        with self.transaction():
            self.connection.execute("UPDATE model SET used = ? WHERE id = ?", (time.time(), model.id))

    # Files

    def files_under(self, roots: Sequence[bytes], model: int) -> dict[bytes, KnownFile]:
        """What the album knows below some folders, or of some files."""
        found: dict[bytes, KnownFile] = {}
        for root in roots:
            for path, size, modified, sidecar, embedded in self.query(
                f"""SELECT path, size, modified, sidecar, vector.id IS NOT NULL FROM picture
                LEFT JOIN vector ON vector.content = picture.content AND vector.model = ?
                WHERE {BELOW}""",
                (model, *below(root)),
            ):
                found[path] = KnownFile(FileStamp(size, modified, sidecar), bool(embedded))
        return found

    def has_vector(self, sha256: bytes, model: int) -> bool:
        """Whether the model has seen a content."""
        sql = "SELECT 1 FROM vector JOIN content ON content.id = content WHERE sha256 = ? AND model = ?"
        return self.scalar(sql, (sha256, model)) is not None

    def vector_by_hash(self, sha256: bytes, model: int) -> np.ndarray | None:
        """A content's vector (E,) float32, if the model has seen it."""
        sql = "SELECT data FROM vector JOIN content ON content.id = content WHERE sha256 = ? AND model = ?"
        data = self.scalar(sql, (sha256, model))
        return None if data is None else np.frombuffer(data, np.float16).astype(np.float32)

    def vectors_by_content(self, model: int, contents: Sequence[int]) -> dict[int, np.ndarray]:
        """The vectors (E,) float32 of some contents, of those that the model has seen."""
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(contents), 500):
            some = contents[start : start + 500]
            sql = f"SELECT content, data FROM vector WHERE model = ? AND content IN ({', '.join('?' * len(some))})"
            for content, data in self.query(sql, (model, *some)):
                found[content] = np.frombuffer(data, np.float16).astype(np.float32)
        return found

    def place(
        self,
        path: bytes,
        stamp: FileStamp,
        sha256: bytes,
        metadata: PhotoMetadata,
        model: int,
        vector: np.ndarray | None,
        seen: set[bytes],
    ) -> tuple[str, bytes | None]:
        """Puts one file into the album, inside `writing`.

        Args:
            path: of the file.
            stamp: from before it was read.
            sha256: of its bytes.
            metadata: what it says of itself.
            model: that made the vector.
            vector: (E,), or None where the album has it already.
            seen: all paths that are there now; a file of the same content that is not among them, nor on the disk, is
                taken for this one before it was moved.

        Returns:
            What happened: added, changed, moved or unchanged; and where it was before, if it was moved.
        """
        execute = self.connection.execute
        facets = astuple(metadata)[:7]  # width, height, format, taken, camera, latitude, longitude
        execute(
            """INSERT INTO content (sha256, width, height, format, taken, camera, latitude, longitude)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sha256) DO NOTHING""",
            (sha256, *facets),
        )
        content = execute("SELECT id FROM content WHERE sha256 = ?", (sha256,)).get
        new = False
        if vector is not None:
            data = vector.astype(np.float16).tobytes()
            execute("INSERT OR IGNORE INTO vector (model, content, data) VALUES (?, ?, ?)", (model, content, data))
            new = self.connection.changes() > 0
        self._describe(content, FILE_SOURCE, metadata.caption, metadata.tags)
        execute("DELETE FROM failed WHERE path = ?", (path,))
        old = execute("SELECT content FROM picture WHERE path = ?", (path,)).get
        status, before = "unchanged", None
        if old is None:
            before = self._moved_from(content, seen)
            if before is None:
                status = "added"
                execute(
                    "INSERT INTO picture (path, name, size, modified, sidecar, content) VALUES (?, ?, ?, ?, ?, ?)",
                    (path, short_name(path), *stamp, content),
                )
            else:
                status = "moved"
                execute("UPDATE picture SET path = ?, name = ? WHERE path = ?", (path, short_name(path), before))
        elif old != content:
            status = "changed"
        elif new:
            status = "added"  # to the vectors of this model
        execute(
            "UPDATE picture SET size = ?, modified = ?, sidecar = ?, content = ? WHERE path = ?",
            (*stamp, content, path),
        )
        self._reword("content = ?", (content,))
        return status, before

    def fail(self, path: bytes, reason: str, forget: bool) -> None:
        """Notes a file that can't be used, inside `writing`; ``forget`` removes what the album had of it."""
        if forget:
            self.remove(path)
        self.connection.execute("INSERT OR REPLACE INTO failed (path, reason) VALUES (?, ?)", (path, reason))

    def remove(self, path: bytes) -> None:
        """Removes a file from the album, inside `writing`."""
        self.connection.execute("DELETE FROM words WHERE rowid = (SELECT id FROM picture WHERE path = ?)", (path,))
        self.connection.execute("DELETE FROM picture WHERE path = ?", (path,))

    def clean(self, roots: Sequence[bytes], failed: set[bytes]) -> None:
        """Removes contents that no file has any more, and failures below the roots that are none now."""
        with self.transaction():
            self.connection.execute("DELETE FROM content WHERE id NOT IN (SELECT content FROM picture)")
            for root in roots:
                for (path,) in self.query(f"SELECT path FROM failed WHERE {BELOW}", below(root)):
                    if path not in failed:
                        self.connection.execute("DELETE FROM failed WHERE path = ?", (path,))

    def device(self, root: bytes) -> int | None:
        """The number of the device on which a root lay when it was last indexed."""
        return self.scalar("SELECT device FROM root WHERE path = ?", (root,))

    def record_root(self, root: bytes, device: int) -> None:
        """Remembers that a folder was indexed."""
        with self.transaction():
            self.connection.execute("INSERT OR REPLACE INTO root (path, device) VALUES (?, ?)", (root, device))

    # Words

    def describe(self, content: int, source: str, caption: str | None, tags: Sequence[str]) -> None:
        """Sets what one source says of a content: a caption, tags."""
        with self.transaction():
            self._describe(content, source, caption, tags)
            self._reword("content = ?", (content,))

    def rewritten(
        self, content: int, sha256: bytes, files: Sequence[tuple[bytes, FileStamp]], metadata: PhotoMetadata
    ) -> None:
        """All files of a content have other bytes now and the same pixels; what is known of it stays.

        Where another content has these bytes already, nothing is done: the next `index` sorts it out.
        """
        with self.transaction():
            if self.scalar("SELECT 1 FROM content WHERE sha256 = ? AND id != ?", (sha256, content)) is not None:
                return
            self.connection.execute("UPDATE content SET sha256 = ? WHERE id = ?", (sha256, content))
            for path, stamp in files:
                self.connection.execute(
                    "UPDATE picture SET size = ?, modified = ?, sidecar = ? WHERE path = ? AND content = ?",
                    (*stamp, path, content),
                )
            self._describe(content, FILE_SOURCE, metadata.caption, metadata.tags)
            self._reword("content = ?", (content,))

    def _describe(self, content: int, source: str, caption: str | None, tags: Sequence[str]) -> None:
        execute = self.connection.execute
        execute("DELETE FROM caption WHERE content = ? AND source = ?", (content, source))
        execute("DELETE FROM tag WHERE content = ? AND source = ?", (content, source))
        if caption:
            execute("INSERT INTO caption (content, source, text) VALUES (?, ?, ?)", (content, source, caption))
        for tag in dict.fromkeys(tags):
            execute("INSERT INTO tag (content, source, text) VALUES (?, ?, ?)", (content, source, tag))

    def _reword(self, which: str, bound: Sequence[Any]) -> None:
        """Brings the full-text rows of some pictures up to date."""
        execute = self.connection.execute
        execute(f"DELETE FROM words WHERE rowid IN (SELECT id FROM picture WHERE {which})", tuple(bound))
        execute(
            f"""INSERT INTO words (rowid, name, caption, tag) SELECT id, name,
            (SELECT group_concat(text, ' ' ORDER BY source) FROM caption WHERE caption.content = picture.content),
            (SELECT group_concat(text, ' ' ORDER BY source, text) FROM tag WHERE tag.content = picture.content)
            FROM picture WHERE {which}""",
            tuple(bound),
        )

    def _moved_from(self, content: int, seen: set[bytes]) -> bytes | None:
        for (path,) in self.query("SELECT path FROM picture WHERE content = ? ORDER BY path", (content,)):
            if path not in seen and not os.path.lexists(path):
                return path
        return None

    # Pictures

    def pictures(self, contents: Sequence[int], where: str = "1", bound: Sequence[Any] = ()) -> dict[int, Picture]:
        """For each content one of its files: the first by path of those that a filter lets through."""
        found: dict[int, Picture] = {}
        for start in range(0, len(contents), 500):
            some = contents[start : start + 500]
            rows = self.query(
                f"""SELECT picture.path, content.id, width, height, size, taken, camera,
                (SELECT text FROM caption WHERE caption.content = content.id
                    ORDER BY source != '{USER_SOURCE}', source LIMIT 1),
                (SELECT json_group_array(DISTINCT text) FROM tag WHERE tag.content = content.id)
                FROM picture JOIN content ON content.id = picture.content
                WHERE content.id IN ({", ".join("?" * len(some))}) AND ({where}) ORDER BY picture.path DESC""",
                (*some, *bound),
            )
            for path, content, width, height, size, taken, camera, caption, tags in rows:
                words = tuple(json.loads(tags))
                found[content] = Picture(os.fsdecode(path), content, width, height, size, taken, camera, caption, words)
        return found

    def contents_by_vector(self, vectors: Sequence[int]) -> dict[int, int]:
        """Vector ids to contents; those that are gone are left out."""
        found: dict[int, int] = {}
        for start in range(0, len(vectors), 500):
            some = vectors[start : start + 500]
            marks = ", ".join("?" * len(some))
            found |= dict(self.query(f"SELECT id, content FROM vector WHERE id IN ({marks})", some))
        return found

    def vectors(
        self, model: IndexedModel, after: int = 0, last: int | None = None, most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int64, rising, and vectors (n, E) float16 of a model.

        Args:
            model: whose.
            after: only those with greater ids.
            last: only those up to this id; None for all.
            most: at most so many.
        """
        rows = self.query(  # by id: few are beyond it
            "SELECT id, data FROM vector NOT INDEXED WHERE model = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?",
            (model.id, after, 2**62 if last is None else last, -1 if most is None else most),
        )
        ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
        data = np.frombuffer(b"".join(row[1] for row in rows), np.float16).reshape(len(rows), model.embedding)
        return ids, data


BELOW = "(path = ? OR (path > ? AND path < ?))"


def below(root: bytes) -> tuple[bytes, bytes, bytes]:
    """What `BELOW` is bound to: a file itself, or all that lies in a folder."""
    stem = root.rstrip(b"/")
    return root, stem + b"/", stem + b"0"  # "0" follows "/"


def short_name(path: bytes) -> str:
    """A file's name behind that of its folder, as text that can be stored, searched and printed."""
    return display_name(os.fsdecode(b"/".join(path.split(b"/")[-2:])), 0)
