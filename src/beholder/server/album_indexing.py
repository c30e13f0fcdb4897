"""Indexing from the page: only folders below those that the server was started with, and those of the album itself.

Clients name a folder by the number of an allowed folder and a path below it, ``0/2024/May``; no absolute path is taken
from a request or sent in a response.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.album.album import Album
from beholder.album.picture import short_name
from beholder.errors import AlbumBusy, BeholderError, MissingExtra
from beholder.server.http_errors import HTTPError
from beholder.server.worker_encoder import WorkerEncoder
from beholder.tasks.pictures import preprocess_batches

if TYPE_CHECKING:
    from beholder.album.indexing import IndexedPicture
    from beholder.pictures.limits import Limits
    from beholder.server.served_models import ServedEncoder
    from beholder.tasks.dual_encoder import DualEncoder, EmbeddedPicture
    from beholder.tasks.pictures import FailedPicture, Picture

MAX_LISTED = 200  # failed files
MAX_FOLDERS = 1000  # subfolders listed
BATCH = 8  # pictures between which requests get their turn


class AllowedFolders:
    """The folders that the page may add to albums, with all below them.

    Args:
        folders: named when the server is started.
    """

    def __init__(self, folders: Sequence[Path]):
        self.roots = [folder.expanduser().resolve() for folder in folders]

    def resolve(self, name: str) -> Path:
        """Return the folder that a client names.

        Raises:
            HTTPError: It is not below an allowed folder, is hidden, or does not exist.
        """
        number, _, rest = name.partition("/")
        unknown = HTTPError(404, "there is no such folder on this server", code="folder_not_found", param="folder")
        if not (number.isascii() and number.isdigit() and len(number) < 4 and int(number) < len(self.roots)):
            raise unknown
        root = self.roots[int(number)]
        parts = [part for part in rest.split("/") if part]
        if any(part.startswith(".") or "\0" in part for part in parts):
            raise unknown
        try:
            path = root.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise unknown from None
        if not path.is_relative_to(root) or not path.is_dir():  # a link may lead elsewhere
            raise unknown
        return path

    def subfolders(self, name: str) -> list[dict[str, str]]:
        """Return the folders in one, or the allowed folders themselves for an empty name."""
        if not name:
            return [{"folder": str(number), "name": _printable(root)} for number, root in enumerate(self.roots)]
        path = self.resolve(name)
        try:
            with os.scandir(path) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
        except OSError:
            raise HTTPError(403, "this folder can't be listed", code="folder_unreadable", param="folder") from None
        found = []
        for inside in names[:MAX_FOLDERS]:
            try:
                inside.encode()
                self.resolve(f"{name}/{inside}")
            except (HTTPError, UnicodeEncodeError):
                continue  # a link to somewhere else, or a name that JSON can't carry
            found.append({"folder": f"{name}/{inside}", "name": inside})
        return found


def _printable(path: Path) -> str:
    return short_name(os.fsencode(path.name or "/"))


class IndexingEncoder(WorkerEncoder):
    """What an index run needs of a `DualEncoder`; batches are computed in the model's thread, among its requests."""

    def __init__(self, encoder: ServedEncoder):
        super().__init__(encoder)
        self.loaded = encoder.model.loaded
        self.towers = encoder.model.towers

    def stream_images(
        self, images: Any, *, batch_size: int | None = None, exact: bool = False, limits: Limits | None = None
    ) -> Iterator[EmbeddedPicture | FailedPicture]:
        """As `DualEncoder.stream_images`."""
        from beholder.tasks.dual_encoder import EmbeddedPicture
        from beholder.tasks.pictures import FailedPicture, PreprocessedImage

        size = BATCH if batch_size is None else min(batch_size, BATCH)
        pictures: Iterator[Picture] = images
        for batch in preprocess_batches(
            pictures, self.loaded.preprocessing, batch_size=size, exact=exact, limits=limits
        ):
            embeddings: Iterator[Any] = iter(())
            if batch.pixels is not None:
                embeddings = iter(self.embed_images([PreprocessedImage(pixels) for pixels in batch.pixels]))
            for index, name, error in batch.pictures:
                yield FailedPicture(index, name, error) if error else EmbeddedPicture(index, name, next(embeddings))


class _Stopped(Exception):
    """The run was stopped."""


@dataclass
class IndexProgress:
    """The state of the last index run, as the page shows it.

    Attributes:
        state: ``idle`` before the first, ``running``, ``done``, ``stopped`` or ``failed``.
        total: files to look at; None before they are counted.
        done: files looked at.
        counts: files by outcome.
        failed: names and reasons of the first files that could not be used.
        passed_over: sentences about files and folders that were not looked at.
        error: why the run failed.
    """

    state: str = "idle"
    total: int | None = None
    done: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    error: str | None = None


class AlbumIndexer:
    """Runs one index run at a time for one album.

    Args:
        folder: of the album.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.progress = IndexProgress()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, folders: Sequence[Path], encoder: ServedEncoder, limits: Limits) -> None:
        """Start a run; without folders, over all that were indexed before.

        Raises:
            HTTPError: One is running.
        """
        with self._lock:
            if self.progress.state == "running":
                raise HTTPError(409, "this album is being indexed", code="indexing")
            self.progress = IndexProgress(state="running")
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, args=(list(folders), encoder, limits), name="beholder-index", daemon=True
            )
            self._thread.start()

    def stop(self, timeout: float = 0.0) -> None:
        """Ask the run to stop; what was indexed is kept."""
        self._stop.set()
        if self._thread is not None and timeout:
            self._thread.join(timeout)

    def _run(self, folders: list[Path], encoder: ServedEncoder, limits: Limits) -> None:
        progress = self.progress
        try:
            with Album.open(self.folder, create_new=False) as album:
                summary = album.index(
                    folders or album.roots(),
                    model=cast("DualEncoder", IndexingEncoder(encoder)),
                    on_file=self._on_file,
                    on_total=self._on_total,
                    limits=limits,
                )
            progress.passed_over = summary.passed_over
            progress.state = "done"
        except _Stopped:
            progress.state = "stopped"
        except AlbumBusy:
            progress.error, progress.state = "another program is indexing into this album", "failed"
        except MissingExtra as error:
            progress.error, progress.state = str(error), "failed"
        except BeholderError as error:  # whose message may contain a path
            progress.error, progress.state = f"it can't be indexed ({type(error).__name__})", "failed"
        except Exception as error:
            progress.error, progress.state = f"it can't be indexed ({type(error).__name__})", "failed"
            raise

    def _on_total(self, total: int) -> None:
        self.progress.total = total

    def _on_file(self, picture: IndexedPicture) -> None:
        progress = self.progress
        progress.done += 1
        progress.counts[picture.status] = progress.counts.get(picture.status, 0) + 1
        if picture.status == "failed" and len(progress.failed) < MAX_LISTED:
            name = short_name(os.fsencode(picture.path))
            progress.failed.append({"name": name, "reason": picture.error or ""})
        if self._stop.is_set():
            raise _Stopped
