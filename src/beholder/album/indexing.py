"""Folders come into the album: what is new is embedded, what moved is recognised, what is gone goes.

A file is unchanged if its size and times are; only otherwise is it read, and only what the model has not seen by its
content is embedded. Reading and hashing run ahead in threads, decoding overlaps the network, and whatever is done is
committed every moment, so that it can be killed at any time and goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beholder.album.store import FileStamp, Store
from beholder.errors import PictureBroken, PictureError, PictureUnreadable
from beholder.pictures.photo_metadata import PhotoMetadata, photo_metadata
from beholder.pictures.read import FileBytes, Limits, display_name, read_file
from beholder.pictures.sidecar import sidecar_time
from beholder.pictures.walk import walk
from beholder.runtime.pipeline import map_ahead

if TYPE_CHECKING:
    import numpy as np

    from beholder.tasks.dual_encoder import DualEncoder

Status = Literal["added", "changed", "unchanged", "moved", "removed", "failed"]

COMMIT_AFTER = 64  # pictures
COMMIT_EVERY = 1.0  # seconds
READ_AHEAD = 16  # files


@dataclass(frozen=True)
class IndexedPicture:
    """What became of one file; ``before`` is where it lay until it was moved."""

    path: str
    status: Status
    error: str | None = None
    before: str | None = None

    @property
    def name(self) -> str:
        """The path, safe to print."""
        return display_name(self.path, 0)


@dataclass
class IndexSummary:
    """How many files had which end; the failed ones by name."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    failed: list[IndexedPicture] = field(default_factory=list)

    def count(self, picture: IndexedPicture) -> None:
        """Takes one more into account."""
        if picture.status == "failed":
            self.failed.append(picture)
        else:
            setattr(self, picture.status, getattr(self, picture.status) + 1)


@dataclass
class _File:
    """A file on its way: read, or the reason why not."""

    path: bytes
    stamp: FileStamp
    data: FileBytes | None = None
    sha256: bytes = b""
    metadata: PhotoMetadata | None = None
    error: PictureError | None = None
    vector: np.ndarray | None = None


class Indexer:
    """One run over some folders.

    Args:
        store: the album.
        model: the id under which vectors are kept.
        encoder: gives the model, when there is something for it to do.
        exclude: patterns as in a ``.gitignore``, relative to each folder.
        report: called with each file when what became of it is on disk.
        expect: called with the number of files that will be reported, once it is known.
        exact: decode large JPEGs in full.
        limits: the caps on pixels, bytes and sides.
    """

    def __init__(
        self,
        store: Store,
        model: int,
        encoder: Callable[[], DualEncoder],
        *,
        exclude: Sequence[str] = (),
        report: Callable[[IndexedPicture], None] | None = None,
        expect: Callable[[int], None] | None = None,
        batch_size: int = 16,
        exact: bool = False,
        limits: Limits | None = None,
    ):
        self.store = store
        self.model = model
        self.encoder = encoder
        self.exclude = exclude
        self.report = report
        self.expect = expect
        self.batch_size = batch_size
        self.exact = exact
        self.limits = limits or Limits()
        self.summary = IndexSummary()
        self.ready: list[_File] = []  # to be committed
        self.committed = time.monotonic()
        self.seen: set[bytes] = set()
        self.failed: set[bytes] = set()

    def run(self, folders: Sequence[str | Path]) -> IndexSummary:
        """Brings the album up to date with some folders (or single files).

        Raises:
            WriteFailed: the album can't be written; what was committed before stays.
        """
        roots = [os.fsencode(Path(folder).absolute()) for folder in folders]
        roots = [root for root in dict.fromkeys(roots) if self._usable(root)]
        found, unlisted = self._scan(roots)
        known = self.store.files_under(roots, self.model)
        todo: list[bytes] = []
        unchanged: list[bytes] = []
        for path, stamp in found.items():
            old = known.get(path)
            (unchanged if old is not None and old == (stamp, True) else todo).append(path)
        gone = [path for path in known if path not in found and not path.startswith(unlisted)]
        if self.expect is not None:
            self.expect(len(found) + len(gone))
        for path in unchanged:
            self._tell(path, "unchanged")
        try:
            self._bring_in([_File(path, found[path]) for path in todo])
        finally:  # interrupted or not, what is done is kept
            self._commit()
        self._remove(gone)
        self.store.clean(roots, self.failed)
        for root in roots:
            self.store.record_root(root, Path(os.fsdecode(root)).stat().st_dev)
        return self.summary

    def _usable(self, root: bytes) -> bool:
        """Whether a root is there. One that is not keeps its pictures: the disk it is on may be away."""
        path = Path(os.fsdecode(root))
        try:
            device = path.stat().st_dev
            empty = path.is_dir() and not any(path.iterdir())
        except OSError as error:
            self._fail(root, f"can't be indexed: {error.strerror}; what the album knows of it stays")
            return False
        before = self.store.device(root)
        if empty and before not in (None, device) and self.store.files_under([root], self.model):
            self._fail(root, "is empty and on another disk than before, so a disk seems to be away; its pictures stay")
            return False
        return True

    def _scan(self, roots: Sequence[bytes]) -> tuple[dict[bytes, FileStamp], tuple[bytes, ...]]:
        """All pictures below the roots with their stamps, and the folders that could not be listed."""
        found: dict[bytes, FileStamp] = {}
        unlisted: list[bytes] = []
        for root in roots:
            top = Path(os.fsdecode(root))
            for path in walk(top, skip=exclude_filter(top, self.exclude)):
                raw = os.fsencode(path)
                try:
                    status = path.stat()
                except OSError as error:
                    reason = "a link that leads nowhere" if path.is_symlink() else f"can't be read: {error.strerror}"
                    self._fail(raw, reason)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    unlisted.append(raw + b"/")
                    self._fail(raw, "this folder can't be listed; what the album knows of it stays")
                    continue
                found[raw] = FileStamp(status.st_size, status.st_mtime_ns, sidecar_time(path))
        self.seen = set(found)
        return found, tuple(unlisted)

    def _bring_in(self, files: Sequence[_File]) -> None:
        waiting: deque[_File] = deque()  # given to the encoder, in order
        first_of: dict[bytes, list[_File]] = {}  # copies of what is with the encoder

        def to_embed() -> Iterator[FileBytes]:
            for file in map_ahead(self._read, files, READ_AHEAD):
                if file.error is not None or self.store.has_vector(file.sha256, self.model):
                    self._settle(file)
                elif file.sha256 in first_of:
                    file.data = None
                    first_of[file.sha256].append(file)
                elif file.data is not None:
                    first_of[file.sha256] = []
                    waiting.append(file)
                    data, file.data = file.data, None
                    yield data

        source = to_embed()
        first: Iterable[FileBytes] = [data] if (data := next(source, None)) is not None else []
        if not first:
            return
        stream = self.encoder().stream_images(
            chain(first, source), batch_size=self.batch_size, exact=self.exact, limits=self.limits
        )
        del first, data
        for picture in stream:
            file = waiting.popleft()
            for same in (file, *first_of.pop(file.sha256)):
                same.vector, same.error = picture.embedding, picture.error
                if same.vector is not None and abs(float((same.vector**2).sum()) - 1) > 0.01:
                    same.error = PictureBroken(picture.name, "the model makes no vector of unit length of it")
                self._settle(same)

    def _read(self, file: _File) -> _File:
        path = Path(os.fsdecode(file.path))
        try:
            file.data = read_file(path, self.limits)
            file.sha256 = hashlib.sha256(file.data).digest()
            file.metadata = photo_metadata(file.data, path)
        except PictureError as error:
            file.error, file.data = error, None
        return file

    def _settle(self, file: _File) -> None:
        file.data = None
        self.ready.append(file)
        if len(self.ready) >= COMMIT_AFTER or time.monotonic() - self.committed > COMMIT_EVERY:
            self._commit()

    def _commit(self) -> None:
        if not self.ready:
            return
        done: list[tuple[bytes, Status, str | None, bytes | None]] = []
        with self.store.transaction():
            for file in self.ready:
                if file.error is not None or file.metadata is None:
                    reason = file.error.reason if file.error is not None else "can't be read"
                    self.store.fail(file.path, reason, forget=not isinstance(file.error, PictureUnreadable))
                    self.failed.add(file.path)
                    done.append((file.path, "failed", reason, None))
                    continue
                status, before = self.store.place(
                    file.path, file.stamp, file.sha256, file.metadata, self.model, file.vector, self.seen
                )
                done.append((file.path, status, None, before))  # type: ignore[arg-type]
        self.ready = []
        self.committed = time.monotonic()
        for told in done:
            self._tell(*told)

    def _remove(self, gone: Sequence[bytes]) -> None:
        moved = {path for path in gone if self.store.scalar("SELECT 1 FROM picture WHERE path = ?", (path,)) is None}
        left = [path for path in gone if path not in moved]
        for start in range(0, len(left), 1000):
            with self.store.transaction():
                for path in left[start : start + 1000]:
                    self.store.remove(path)
            for path in left[start : start + 1000]:
                self._tell(path, "removed")

    def _fail(self, path: bytes, reason: str) -> None:
        with self.store.transaction():
            self.store.fail(path, reason, forget=False)
        self.failed.add(path)
        self._tell(path, "failed", reason)

    def _tell(self, path: bytes, status: Status, error: str | None = None, before: bytes | None = None) -> None:
        picture = IndexedPicture(os.fsdecode(path), status, error, None if before is None else os.fsdecode(before))
        self.summary.count(picture)
        if self.report is not None:
            self.report(picture)


def exclude_filter(root: Path, patterns: Sequence[str]) -> Callable[[Path, bool], bool] | None:
    """For `walk`: whether a path below the root is left out by patterns as in a ``.gitignore``."""
    if not patterns:
        return None
    from pathspec import GitIgnoreSpec

    spec = GitIgnoreSpec.from_lines(patterns)

    def skip(path: Path, is_folder: bool) -> bool:
        return spec.match_file(f"{path.relative_to(root).as_posix()}{'/' if is_folder else ''}")

    return skip
