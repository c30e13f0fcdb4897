"""XMP sidecars: files beside a picture that hold the metadata which photo programs do not write into it.

Two namings are in use: ``photo.jpg.xmp`` (darktable, digiKam) and ``photo.xmp`` (Lightroom, Capture One, Bridge). Names
are compared without regard to case. A sidecar of a RAW file also belongs to the JPEG of the same shot.
"""

import os
import time
from functools import lru_cache
from pathlib import Path

from beholder.pictures.raw import RAW_EXTENSIONS

_SUFFIX = ".xmp"
_SETTLED = 2_000_000_000  # nanoseconds after which a folder's time shows every later change


def sidecar_path(path: Path) -> Path:
    """Return the path of the sidecar to write: an existing one of the picture alone, or else ``NAME.EXT.xmp``."""
    by_name = {name.casefold(): name for name in reversed(_sidecars_in(path.parent))}
    specific, by_stem = (by_name.get(name.casefold() + _SUFFIX) for name in (path.name, path.stem))
    if specific is None and by_stem is not None and not _shares_stem(path):
        return path.with_name(by_stem)
    return path.with_name(specific or path.name + _SUFFIX)


def find_sidecars(path: Path) -> list[Path]:
    """Return the existing sidecars of a picture, the most specific first; of a link, those beside its target, too."""
    found = _beside(path)
    if path.is_symlink():
        try:
            found += [sidecar for sidecar in _beside(path.resolve()) if sidecar not in found]
        except (OSError, RuntimeError):  # a link to itself
            return found
    return found


def _beside(path: Path) -> list[Path]:
    own, stem = path.name.casefold(), path.stem.casefold()
    ranked = []
    for name in _sidecars_in(path.parent):
        described = name.casefold()[: -len(_SUFFIX)]
        raw_stem, dot, extension = described.rpartition(".")
        if described == own:
            ranked.append((0, name))
        elif described == stem:
            ranked.append((1, name))
        elif raw_stem == stem and dot + extension in RAW_EXTENSIONS:
            ranked.append((2, name))
    return [path.with_name(name) for _, name in sorted(ranked)]


def _shares_stem(path: Path) -> bool:
    """Return whether the folder holds another picture of the same stem, so that ``NAME.xmp`` may be about that one."""
    stem, own = path.stem.casefold(), path.name.casefold()
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name.casefold() for entry in entries]
    except OSError:
        return False
    return any(
        name.rpartition(".")[0] == stem and name != own and not name.endswith((_SUFFIX, *RAW_EXTENSIONS))
        for name in names
    )


def _sidecars_in(folder: Path) -> tuple[str, ...]:
    try:
        modified = folder.stat().st_mtime_ns
    except (OSError, ValueError):
        return ()
    if time.time_ns() - modified < _SETTLED:  # it may change again without its time telling so
        return _listed(folder)
    return _listed_before(folder, modified)


@lru_cache(maxsize=16)
def _listed_before(folder: Path, modified: int) -> tuple[str, ...]:
    return _listed(folder)


def _listed(folder: Path) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.name.casefold().endswith(_SUFFIX)))
    except OSError:
        return ()
