"""Atomic writes: a file or a folder is there whole, or as it was before, whatever happens meanwhile.

Everything is written into a scratch folder on the same file system, flushed to disk, renamed, and the containing folder
flushed too, so that neither a killed process nor a power cut leaves half of it behind.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beholder.errors import WriteFailed

SCRATCH = ".writing-"


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a scratch path of the same name, which replaces ``path`` when the block ends without an error.

    A file that is replaced passes its permissions on.

    Args:
        path: destination; its folder exists.
        durable: flush to disk. False suits a cache that is checked when it is read.

    Raises:
        OSError: writing, flushing or renaming failed; ``path`` is as it was before.
    """
    with atomic_files(path.parent, durable=durable) as scratch:
        yield scratch / path.name


@contextmanager
def atomic_files(folder: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a scratch folder whose files move into ``folder`` when the block ends without an error.

    Each file is atomic, all of them together are not. They move in the order of their suffixes: an ``.xml`` comes after
    the ``.bin`` that it refers to.

    Args:
        folder: destination, which exists.
        durable: flush to disk.

    Raises:
        OSError: writing, flushing or renaming failed; no file is half written.
    """
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
        yield Path(scratch)
        for file in sorted(Path(scratch).iterdir(), key=lambda file: (file.suffix, file.name)):
            target = folder / file.name
            if target.exists():
                file.chmod(target.stat().st_mode & 0o7777)
            if durable:
                sync(file)
            file.replace(target)
        if durable:
            sync(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically.

    Raises:
        OSError: as of `atomic_file`.
    """
    with atomic_file(path) as scratch:
        scratch.write_bytes(content)


def write_text(path: Path, content: str, errors: str = "strict") -> None:
    """Write a whole file as UTF-8, atomically.

    Raises:
        OSError: as of `atomic_file`.
    """
    write_bytes(path, content.encode("utf-8", errors))


@contextmanager
def atomic_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty scratch folder, which becomes ``folder`` when the block ends without an error.

    Args:
        folder: destination; folders above it are made as needed.
        replace: replace a folder that is there already. Otherwise the existing one stays, as when two processes build
            the same content and one of them is faster.

    Raises:
        OSError: writing, flushing or renaming failed; ``folder`` is as it was before.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder.parent) as scratch:
        whole, replaced = Path(scratch) / "whole", Path(scratch) / "replaced"
        whole.mkdir()
        yield whole
        for path in (*whole.rglob("*"), whole):
            sync(path)
        if replace and folder.exists():
            folder.rename(replaced)
        try:
            whole.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
                raise
            if not folder.exists():
                raise
        sync(folder.parent)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a WriteFailed that names ``path``."""
    try:
        yield
    except OSError as error:
        raise WriteFailed(f"{path}: can't be written: {error.strerror or error}") from error


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of unfinished writes. Only for a folder that no other process writes to."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk. Windows can't flush a folder; there it is skipped."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
