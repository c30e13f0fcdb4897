"""Finds the pictures in folders."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
SUFFIXES |= {".avif", ".heic", ".heif", ".hif"}


def walk(*sources: str | Path, skip: Callable[[Path, bool], bool] | None = None) -> Iterator[Path]:
    """Yield the pictures among files and folders, in the order given and sorted by name within a folder.

    A path that is no folder is always yielded, even where it is missing or has another suffix, so that reading it says
    what is wrong. In a folder, only names with a picture's suffix count; hidden files and folders are left out. Each
    folder is entered once, however many links lead to it. A folder that can't be listed is yielded itself, for the
    same reason as a missing file.

    Args:
        sources: paths of files and folders.
        skip: given a path found in a folder, and whether it is a folder itself, says whether to leave it out.
    """
    entered: set[tuple[int, int]] = set()
    for source in sources:
        path = Path(source)
        if _is_folder(path):
            yield from _pictures_in(path, entered, skip)
        else:
            yield path


def _pictures_in(
    folder: Path, entered: set[tuple[int, int]], skip: Callable[[Path, bool], bool] | None
) -> Iterator[Path]:
    waiting = [(folder, True)]  # a stack of our own: folders can be nested deeper than Python calls
    while waiting:
        path, is_folder = waiting.pop()
        if skip is not None and path is not folder and skip(path, is_folder):
            continue
        if not is_folder:
            yield path
            continue
        try:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in entered:
                continue
            entered.add(identity)
            with os.scandir(path) as entries:  # which tells what each is, without a look at it
                inside = [(entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
        except OSError:
            yield path
            continue
        inside = [one for one in inside if one[1] or one[0][one[0].rfind(".") :].lower() in SUFFIXES]
        waiting += [(path / name, is_folder) for name, is_folder in sorted(inside, reverse=True)]


def _is_folder(path: "Path | os.DirEntry[str]") -> bool:
    try:
        return path.is_dir()
    except OSError:  # a folder above it may not be searched
        return False
