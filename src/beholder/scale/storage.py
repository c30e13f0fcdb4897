"""Files on any file system that fsspec knows: a disk, S3, Google Cloud Storage, HTTP and others.

Writing is atomic everywhere: on a disk by writing aside and renaming, on an object store because an object appears when
its upload is complete. Reading gives up when nothing arrives for a while, whatever the file system's own patience.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Literal, TypeVar

from beholder.errors import InvalidSetting, MissingExtra, WriteFailed
from beholder.files import reported, write_bytes

Item = TypeVar("Item")
READ_AHEAD = 32  # items
TIMEOUT = 120.0  # seconds
PIECE = 16 * 2**20  # bytes that are copied together


@dataclass(frozen=True)
class Location:
    """A folder or a file by its address.

    Attributes:
        address: as it was given, such as ``s3://bucket/shards``.
        files: fsspec's file system.
        path: on that file system.
    """

    address: str
    files: Any
    path: str

    @classmethod
    def of(cls, address: str) -> Location:
        """Find the file system of an address.

        Raises:
            MissingExtra: fsspec is not installed.
            InvalidSetting: its protocol is unknown or needs a package that is not installed.
        """
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtra("shards", "scale") from error
        try:
            files, path = fsspec.core.url_to_fs(str(address))
        except (ImportError, ValueError) as error:
            raise InvalidSetting(f"{address}: no such kind of address ({error})") from error
        return cls(str(address), files, path)

    @property
    def local(self) -> Path | None:
        """The path, if it is on this machine's disks."""
        import fsspec

        return Path(self.path) if isinstance(self.files, fsspec.implementations.local.LocalFileSystem) else None

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.address.rstrip('/')}/{name}", self.files, f"{self.path.rstrip('/')}/{name}")

    def names(self) -> list[str]:
        """List the names of the files in this folder; none if it does not exist yet."""
        if self.local is not None:
            try:
                return os.listdir(self.local)  # noqa: PTH208 (a hundred thousand names, as they are)
            except FileNotFoundError:
                return []
        self.files.invalidate_cache(self.path)
        try:
            found = self.files.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    def version(self) -> str:
        """Return the ETag of this file, or else its size: what tells whether it has changed since."""
        information = self.files.info(self.path)
        etag = information.get("ETag") or information.get("etag") or information.get("md5Hash")
        return f"etag {etag}" if etag else f"size {information.get('size')}"

    def exists(self) -> bool:
        """Whether there is such a file, asked anew."""
        if self.local is None:
            self.files.invalidate_cache(self.path.rpartition("/")[0])
        return bool(self.files.exists(self.path))

    def read(self) -> bytes:
        """Return the content of this file."""
        return bytes(self.files.cat_file(self.path))

    def size(self) -> int | None:
        """Return the size of this file in bytes, asked anew; None if there is none."""
        if self.local is None:
            self.files.invalidate_cache(self.path.rpartition("/")[0])
        try:
            return int(self.files.size(self.path))
        except FileNotFoundError:
            return None

    def download(self, path: Path, timeout: float = TIMEOUT) -> None:
        """Copy this file to a disk, in pieces.

        Args:
            path: of the copy.
            timeout: seconds without any data after which to give up.

        Raises:
            OSError: it can't be read or written.
            TimeoutError: nothing arrived for that long.
        """

        def pieces() -> Iterator[bytes]:
            with self.files.open(self.path, "rb") as stream:
                while piece := stream.read(PIECE):
                    yield piece

        with path.open("wb") as file:
            for piece in read_ahead(pieces, timeout, most=2):
                file.write(piece)

    def upload(self, path: Path) -> None:
        """Write this file with the content of a file on a disk, which is not held in memory.

        Raises:
            WriteFailed: it can't be written.
        """
        try:
            self.files.put_file(str(path), self.path)
        except Exception as error:  # every file system raises its own
            raise WriteFailed(f"{self.address}: can't be written: {reason_of(error)}") from error

    def write(self, content: bytes) -> None:
        """Write this file so that it is there whole or not at all; its folder is made as needed.

        Raises:
            WriteFailed: it can't be written.
        """
        if self.local is not None:
            with reported(self.local):
                self.local.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(self.local, content)
            return
        try:
            self.files.pipe_file(self.path, content)
        except Exception as error:  # every file system raises its own
            raise WriteFailed(f"{self.address}: can't be written: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """Return what an error of a file system says, on one line."""
    if isinstance(error, OSError) and error.strerror and not error.args[2:]:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())[:300]


def read_ahead(items: Callable[[], Iterable[Item]], timeout: float = TIMEOUT, most: int = READ_AHEAD) -> Iterator[Item]:
    """Yield items that a thread computes ahead, a bounded number at a time.

    Args:
        items: called by that thread; its exceptions are raised here.
        timeout: seconds without an item after which to give up.
        most: items ahead.

    Raises:
        TimeoutError: no item came for that long; the thread is left behind.
    """
    queue: Queue[tuple[Literal["item", "error", "end"], Any]] = Queue(most)
    left = threading.Event()

    def put(kind: Literal["item", "error", "end"], value: Any) -> None:
        while not left.is_set():
            try:
                return queue.put((kind, value), timeout=1)
            except Full:
                continue

    def fill() -> None:
        try:
            for item in items():
                put("item", item)
                if left.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    threading.Thread(target=fill, daemon=True, name="beholder-read-ahead").start()
    try:
        while True:
            try:
                kind, value = queue.get(timeout=timeout)
            except Empty:
                raise TimeoutError(f"nothing arrived for {timeout:g} seconds") from None
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        left.set()
