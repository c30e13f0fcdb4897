"""Finds the pictures in folders."""

from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
SUFFIXES |= {".avif", ".heic", ".heif", ".hif"}


def walk(*sources: str | Path) -> Iterator[Path]:
    """Yield the pictures among files and folders, in the order given and sorted by name within a folder.

    A path that is no folder is always yielded, even where it is missing or has another suffix, so that reading it says
    what is wrong. In a folder, only names with a picture's suffix count; hidden files and folders are left out. Each
    folder is entered once, however many links lead to it. A folder that can't be listed is yielded itself, for the
    same reason as a missing file.

    Args:
        sources: paths of files and folders.
    """
    entered: set[tuple[int, int]] = set()
    for source in sources:
        path = Path(source)
        if _is_folder(path):
            yield from _pictures_in(path, entered)
        else:
            yield path


def _pictures_in(folder: Path, entered: set[tuple[int, int]]) -> Iterator[Path]:
    waiting = [folder]  # a stack of our own: folders can be nested deeper than Python calls
    while waiting:
        path = waiting.pop()
        if not _is_folder(path):
            if path.suffix.lower() in SUFFIXES:
                yield path
            continue
        try:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in entered:
                continue
            entered.add(identity)
            waiting += sorted((child for child in path.iterdir() if not child.name.startswith(".")), reverse=True)
        except OSError:
            yield path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a folder above it may not be searched
        return False
