"""Find image files in folders."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
IMAGE_EXTENSIONS |= {".avif", ".heic", ".heif", ".hif"}


def walk(*sources: str | Path, skip: Callable[[Path, bool], bool] | None = None) -> Iterator[Path]:
    """Yield the image files among files and folders, in the given order, sorted by name within each folder.

    A path that is not a folder is always yielded, even if it does not exist or has another extension, so that reading
    it reports the error. In folders, only files with the extension of an image format are yielded; hidden files and
    folders are skipped. Each folder is entered once, however many links lead to it. A folder that can't be listed is
    yielded itself, for the same reason as a missing file.

    Args:
        sources: Paths of files and folders.
        skip: Predicate that receives a path found in a folder and whether it is a folder; True excludes it.
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
    waiting = [(folder, True)]  # an explicit stack: nesting may exceed the recursion limit
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
            with os.scandir(path) as entries:  # provides file types without a stat per file
                inside = [(entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
        except OSError:
            yield path
            continue
        inside = [one for one in inside if one[1] or one[0][one[0].rfind(".") :].lower() in IMAGE_EXTENSIONS]
        waiting += [(path / name, is_folder) for name, is_folder in sorted(inside, reverse=True)]


def _is_folder(path: "Path | os.DirEntry[str]") -> bool:
    try:
        return path.is_dir()
    except OSError:  # e.g. no permission for a parent folder
        return False
