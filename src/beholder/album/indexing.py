"""Indexing: new files are embedded, moved files are recognized, missing files are removed.

A file is read only if its size or times have changed, and embedded only if the model has not embedded the same content
before. Reading and hashing run ahead in threads, decoding overlaps inference, and results are committed every second,
so an index run can be killed at any time and the next one continues where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beholder.album.file_scan import FileScan
from beholder.album.file_stamp import FileStamp
from beholder.album.store import files, vectors
from beholder.album.store.connection import Store
from beholder.album.store.files import RunState
from beholder.errors import PictureBroken, PictureError, PictureUnreadable
from beholder.pictures.photo_metadata import PhotoMetadata, photo_metadata
from beholder.pictures.read import FileBytes, Limits, display_name, read_file
from beholder.pictures.video import is_video, scene_frames, video_metadata
from beholder.runtime.pipeline import map_ahead

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from beholder.tasks.dual_encoder import DualEncoder

Status = Literal["added", "changed", "unchanged", "moved", "removed", "failed"]

COMMIT_AFTER = 64  # pictures, or
COMMIT_EVERY = 1.0  # seconds
READ_AHEAD = 16  # files


@dataclass(frozen=True)
class IndexedPicture:
    """The outcome for one file.

    Attributes:
        path: of the file.
        status: outcome; ``added`` also for a file that another model had embedded before.
        error: reason for ``failed``.
        moved_from: former path, for ``moved``.
    """

    path: str
    status: Status
    error: str | None = None
    moved_from: str | None = None

    @property
    def name(self) -> str:
        """The path, safe to print."""
        return display_name(self.path, 0)


@dataclass
class IndexSummary:
    """Number of files by outcome, and the failed files."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    raw_companions: int = 0  # RAW files of shots whose JPEG is in the album
    failed: list[IndexedPicture] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)  # sentences about formats and folders that were left out

    def count(self, picture: IndexedPicture) -> None:
        """Count one more file."""
        if picture.status == "failed":
            self.failed.append(picture)
        else:
            setattr(self, picture.status, getattr(self, picture.status) + 1)


@dataclass
class _File:
    """A file in the pipeline: read, or the error."""

    path: bytes
    stamp: FileStamp
    data: FileBytes | None = None
    sha256: bytes = b""
    metadata: PhotoMetadata | None = None
    error: PictureError | None = None
    vector: np.ndarray | None = None


def _is_video(path: bytes) -> bool:
    return is_video(Path(os.fsdecode(path)))


def _frame_hash(video: bytes, time: int) -> bytes:
    """Return what identifies a frame in place of the hash of a file."""
    return hashlib.sha256(video + time.to_bytes(8)).digest()


class Indexer:
    """One index run over some folders.

    Args:
        store: the album.
        model: id of the model.
        encoder: returns the model; called only if there is something to embed.
        exclude: patterns as in a ``.gitignore``, relative to each folder.
        on_file: called with the outcome of each file once it is on disk.
        on_total: called with the number of files that will be reported, once it is known.
        batch_size: pictures per forward pass.
        exact: decode large JPEGs in full.
        limits: on pixels, bytes and sides.
        verify: read all files again, those with unchanged size and times too.
        videos: index scenes of videos, too.
    """

    def __init__(
        self,
        store: Store,
        model: int,
        encoder: Callable[[], DualEncoder],
        *,
        exclude: Sequence[str] = (),
        on_file: Callable[[IndexedPicture], None] | None = None,
        on_total: Callable[[int], None] | None = None,
        batch_size: int = 16,
        exact: bool = False,
        limits: Limits | None = None,
        verify: bool = False,
        videos: bool = False,
    ):
        self.store = store
        self.model = model
        self.encoder = encoder
        self.exclude = exclude
        self.on_file = on_file
        self.on_total = on_total
        self.batch_size = batch_size
        self.exact = exact
        self.limits = limits or Limits()
        self.verify = verify
        self.videos = videos
        self.summary = IndexSummary()
        self.pending: list[_File] = []  # to be committed
        self.committed = time.monotonic()
        self.state = RunState()
        self.failed: set[bytes] = set()

    def run(self, folders: Sequence[str | Path]) -> IndexSummary:
        """Update the album with some folders or single files.

        Raises:
            WriteFailed: the album can't be written; what was committed before is kept.
        """
        roots = [os.fsencode(os.path.realpath(folder)) for folder in folders]
        roots = [root for root in dict.fromkeys(roots) if self._usable(root)]
        scanned = FileScan(self.store, roots, self.exclude, self._fail, self.videos)
        self.summary.passed_over = scanned.passed_over
        files.add_mounts(self.store, sorted(scanned.mounts))
        found, kept = scanned.found, tuple(path + b"/" for path in scanned.kept)
        other = files.other_spellings(self.store, roots)
        known = files.files_under(self.store, [*roots, *other], self.model)
        todo: list[bytes] = []
        unchanged: list[bytes] = []
        for path, stamp in found.items():
            old = known.get(path)
            same = old is not None and old.embedded and old.stamp.same_file(stamp) and not self.verify
            (unchanged if same else todo).append(path)
        gone = [path for path in known if path not in found and not path.startswith(kept)]
        if not self.videos:  # those indexed before stay
            seen = files.video_paths(self.store, roots)
            gone = [path for path in gone if path not in seen or not os.path.lexists(path)]
        self.state = RunState(set(found), {stamp.across_moves for path, stamp in found.items() if path not in known})
        if self.on_total is not None:
            self.on_total(len(found) + len(gone))
        files.refresh_stamps(self.store, {path: found[path] for path in unchanged if known[path].stamp != found[path]})
        for path in unchanged:
            self._report(path, "unchanged")
        try:
            self._embed([_File(path, found[path]) for path in todo if not _is_video(path)])
            self._commit()
            for path in todo:
                if _is_video(path):
                    self._embed_video(_File(path, found[path]))
        finally:  # interrupted or not, finished work is kept
            self._commit()
        files.set_companions(self.store, scanned.companions, roots)
        self.summary.raw_companions = len(scanned.companions)
        self._remove(gone)
        files.clean_up(self.store, roots, self.failed)
        for root in roots:
            files.add_root(self.store, root, Path(os.fsdecode(root)).stat().st_dev)
        for root in other:
            files.merge_root(self.store, root)
        return self.summary

    def _usable(self, root: bytes) -> bool:
        """Return whether a root is there. If not, its pictures stay: a drive may be unmounted."""
        path = Path(os.fsdecode(root))
        try:
            device = path.stat().st_dev
            empty = path.is_dir() and not any(path.iterdir())
        except OSError as error:
            self._fail(root, f"can't be indexed: {error.strerror}; its pictures stay in the album")
            return False
        device_before = files.root_device(self.store, root)
        if empty and device_before not in (None, device) and files.files_under(self.store, [root], self.model):
            self._fail(
                root, "is empty and on another disk than before, so a drive seems to be unmounted; its pictures stay"
            )
            return False
        return True

    def _embed(self, todo: Sequence[_File]) -> None:
        """Read files, embed those with new content, and queue all of them for the next commit."""
        waiting: deque[_File] = deque()  # passed to the encoder, in order
        copies: dict[bytes, list[_File]] = {}  # by hash, of files that are with the encoder

        def to_embed() -> Iterator[FileBytes]:
            for file in map_ahead(self._read, todo, READ_AHEAD):
                if file.error is not None or vectors.has_vector(self.store, file.sha256, self.model):
                    self._enqueue(file)
                elif file.sha256 in copies:
                    file.data = None
                    copies[file.sha256].append(file)
                elif file.data is not None:
                    copies[file.sha256] = []
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
            for same in (file, *copies.pop(file.sha256)):
                same.vector, same.error = picture.embedding, picture.error
                if same.vector is not None and abs(float((same.vector**2).sum()) - 1) > 0.01:
                    same.error = PictureBroken(picture.name, "its embedding is not of unit length")
                self._enqueue(same)

    def _embed_video(self, file: _File) -> None:
        """Embed the scenes of a video and commit them together."""
        path = Path(os.fsdecode(file.path))
        outcome: tuple[Status, str | None, bytes | None]
        try:
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            metadata = video_metadata(path)
            frames = self._known_frames(file.stamp.size, digest) or self._scenes(path, digest)
        except OSError as error:
            outcome = self._video_failed(file.path, PictureUnreadable(str(path), f"can't be read: {error.strerror}"))
        except PictureError as error:
            outcome = self._video_failed(file.path, error)
        else:
            with self.store.transaction():
                outcomes = [
                    files.add_file(
                        *(self.store, file.path, file.stamp, sha256, metadata, self.model, vector, self.state),
                        time=time,
                    )
                    for time, sha256, vector in frames
                ]
                files.remove_other_frames(self.store, file.path, [time for time, *_ in frames])
            outcome = outcomes[0][0], None, outcomes[0][1]
        self._report(file.path, *outcome)

    def _known_frames(self, size: int, digest: bytes) -> list[tuple[int, bytes, np.ndarray | None]]:
        """Return the frames of a video that is in the album already, all of them embedded, by another path perhaps."""
        for times in files.frame_times(self.store, size):
            frames = [(time, _frame_hash(digest, time), None) for time in times]
            if all(vectors.has_vector(self.store, sha256, self.model) for _, sha256, _ in frames):
                return list(frames)
        return []

    def _scenes(self, path: Path, digest: bytes) -> list[tuple[int, bytes, np.ndarray | None]]:
        times: list[int] = []

        def images() -> Iterator[Image.Image]:
            for milliseconds, image in scene_frames(path):
                times.append(milliseconds)
                yield image

        frames: list[tuple[int, bytes, np.ndarray | None]] = []
        for picture in self.encoder().stream_images(images(), batch_size=self.batch_size, exact=self.exact):
            if picture.error is not None:
                raise picture.error
            frames.append((times[picture.index], _frame_hash(digest, times[picture.index]), picture.embedding))
        return frames

    def _video_failed(self, path: bytes, error: PictureError) -> tuple[Status, str | None, bytes | None]:
        with self.store.transaction():
            files.add_failure(self.store, path, error.reason, remove=not isinstance(error, PictureUnreadable))
        self.failed.add(path)
        return "failed", error.reason, None

    def _read(self, file: _File) -> _File:
        path = Path(os.fsdecode(file.path))
        try:
            file.data = read_file(path, self.limits)
            file.sha256 = hashlib.sha256(file.data).digest()
            file.metadata = photo_metadata(file.data, path)
        except PictureError as error:
            file.error, file.data = error, None
        return file

    def _enqueue(self, file: _File) -> None:
        file.data = None
        self.pending.append(file)
        if len(self.pending) >= COMMIT_AFTER or time.monotonic() - self.committed > COMMIT_EVERY:
            self._commit()

    def _commit(self) -> None:
        if not self.pending:
            return
        done: list[tuple[bytes, Status, str | None, bytes | None]] = []
        with self.store.transaction():
            for file in self.pending:
                if file.error is not None or file.metadata is None:
                    reason = file.error.reason if file.error is not None else "can't be read"
                    remove = not isinstance(file.error, PictureUnreadable)
                    files.add_failure(self.store, file.path, reason, remove=remove)
                    self.failed.add(file.path)
                    done.append((file.path, "failed", reason, None))
                    continue
                status, former = files.add_file(
                    self.store,
                    file.path,
                    file.stamp,
                    file.sha256,
                    file.metadata,
                    self.model,
                    file.vector,
                    self.state,
                )
                done.append((file.path, status, None, former))
        self.pending = []
        self.committed = time.monotonic()
        for outcome in done:
            self._report(*outcome)

    def _remove(self, gone: Sequence[bytes]) -> None:
        left = [path for path in gone if files.has_file(self.store, path)]  # the others have moved
        for start in range(0, len(left), 1000):
            with self.store.transaction():
                for path in left[start : start + 1000]:
                    files.remove_file(self.store, path)
            for path in left[start : start + 1000]:
                self._report(path, "removed")

    def _fail(self, path: bytes, reason: str) -> None:
        with self.store.transaction():
            files.add_failure(self.store, path, reason, remove=False)
        self.failed.add(path)
        self._report(path, "failed", reason)

    def _report(self, path: bytes, status: Status, error: str | None = None, former: bytes | None = None) -> None:
        picture = IndexedPicture(os.fsdecode(path), status, error, None if former is None else os.fsdecode(former))
        self.summary.count(picture)
        if self.on_file is not None:
            self.on_file(picture)
