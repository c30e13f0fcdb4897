"""Find image files in folders."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from beholder.pictures.jpeg_xl import can_read_jpeg_xl
from beholder.pictures.raw import RAW_EXTENSIONS, can_read_raw
from beholder.pictures.video import VIDEO_EXTENSIONS

IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
IMAGE_EXTENSIONS |= {".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c"}

# Files that hold pictures and are not read, by what they are called when they are passed over.
_OTHER_KINDS = {
    "RAW": RAW_EXTENSIONS,
    "JPEG XL": {".jxl"},
    "Photoshop": {".psd", ".psb"},
    "SVG": {".svg", ".svgz"},
    "other pictures": {
        ".exr",
        ".hdr",
        ".tga",
        ".pcx",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jxr",
        ".wdp",
        ".xcf",
        ".eps",
        ".dds",
    },
    "videos": VIDEO_EXTENSIONS,
}
_KIND_OF = {extension: kind for kind, extensions in _OTHER_KINDS.items() for extension in extensions}
_KNOWN_EXTENSIONS = IMAGE_EXTENSIONS | _KIND_OF.keys()
# Thumbnails and trash of Synology, QNAP, Windows, Linux and macOS, in lower case.
_SYSTEM_FOLDERS = {
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
    "@tmp",
    "$recycle.bin",
    "recycler",
}
_SYSTEM_FOLDERS |= {"system volume information", "lost+found", "__macosx", "found.000"}
_PREVIEW_STORES = (".lrdata", ".lrcat-data", ".cocatalogdb")  # of Lightroom and Capture One
_LIBRARIES = (".photoslibrary", ".photolibrary", ".migratedphotolibrary", ".aplibrary")
_ORIGINALS = {"originals", "masters"}  # in a library; its other folders hold derivatives


class PassedOverWarning(UserWarning):
    """Folders of systems, or pictures in formats that are not read, were passed over."""


def walk(
    *sources: str | Path,
    skip: Callable[[Path, bool], bool] | None = None,
    videos: bool = False,
    on_passed_over: Callable[[str], None] | None = None,
) -> Iterator[Path]:
    """Yield the image files among files and folders, in the given order, sorted by name within each folder.

    A path that is not a folder is always yielded, even if it does not exist or has another extension, so that reading
    it reports the error. In folders, only files with the extension of an image format are yielded; hidden files and
    folders are skipped. Each folder is entered once, however many links lead to it. A folder that can't be listed is
    yielded itself, for the same reason as a missing file.

    Folders in which operating systems, network storage and photo libraries keep thumbnails and deleted files are
    skipped, unless they are named themselves. At the end, a single `PassedOverWarning` tells how many of these and how
    many picture files of which unsupported formats there were.

    Args:
        sources: Paths of files and folders.
        skip: Predicate that receives a path found in a folder and whether it is a folder; True excludes it.
        videos: Whether to yield videos, too.
        on_passed_over: Called with the sentence of the warning, too.
    """
    entered: set[tuple[int, int]] = set()
    passed_over: Counter[str] = Counter()
    for source in sources:
        path = Path(source)
        if _is_folder(path):
            yield from _pictures_in(path, entered, skip, passed_over, videos)
        else:
            yield path
    if passed_over:
        if on_passed_over is not None:
            on_passed_over(_passed_over(passed_over))
        warnings.warn(_passed_over(passed_over), PassedOverWarning, stacklevel=2)


def _pictures_in(
    folder: Path,
    entered: set[tuple[int, int]],
    skip: Callable[[Path, bool], bool] | None,
    passed_over: Counter[str],
    videos: bool,
) -> Iterator[Path]:
    waiting = [(folder, True)]  # an explicit stack: nesting may exceed the recursion limit
    while waiting:
        path, is_folder = waiting.pop()
        if skip is not None and path is not folder and skip(path, is_folder):
            continue
        if not is_folder:
            kind = _KIND_OF.get(_extension(path.name))
            readable = {None: True, "RAW": can_read_raw(), "JPEG XL": can_read_jpeg_xl(), "videos": videos}
            if readable.get(kind, False):
                yield path
            else:
                passed_over[f"{kind} ({path.suffix.lower()[1:]})"] += 1
            continue
        if path is not folder and _is_of_system(path):
            passed_over[f"folder {path.name}"] += 1
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
        inside = [one for one in inside if one[1] or _extension(one[0]) in _KNOWN_EXTENSIONS]
        waiting += [(path / name, is_folder) for name, is_folder in sorted(inside, reverse=True)]


def _extension(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _is_of_system(folder: Path) -> bool:
    name = folder.name.lower()
    if folder.parent.name.lower().endswith(_LIBRARIES):
        return name not in _ORIGINALS
    return name in _SYSTEM_FOLDERS or name.endswith(_PREVIEW_STORES)


def _passed_over(counts: Counter[str]) -> str:
    """Return the sentence that tells what was passed over."""
    files = [f"{count} {kind}" for kind, count in counts.most_common() if not kind.startswith("folder ")]
    folders = [kind[7:] for kind in sorted(counts) if kind.startswith("folder ")]
    parts = [f"files in formats that are not read: {', '.join(files)}"] * bool(files)
    if any(kind.startswith("RAW ") for kind in counts):
        parts[0] += ' (RAW files are read with: pip install "beholder[raw]")'
    if any(kind.startswith("JPEG XL ") for kind in counts):
        parts[0] += ' (JPEG XL files are read with: pip install "beholder[jxl]")'
    if any(kind.startswith("videos ") for kind in counts):
        parts[0] += " (videos are read with: beholder index --video)"
    parts += [f"folders of systems and libraries: {', '.join(folders)}"] * bool(folders)
    return f"passed over {'; '.join(parts)}"


def _is_folder(path: "Path | os.DirEntry[str]") -> bool:
    try:
        return path.is_dir()
    except OSError:  # e.g. no permission for a parent folder
        return False
