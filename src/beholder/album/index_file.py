"""The file beside the album that FAISS searches: derived from it, and thrown away at the first doubt.

It is written aside, brought to disk and put in place as a whole, under a name made of its content; a description beside
it says which that is. Only a file of our own with the checksum that is written there is given to FAISS.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

VERSION = 2


@dataclass(frozen=True)
class Description:
    """What is written beside an index file, and says whether it may be read.

    Attributes:
        file: its name.
        sha256: of its bytes.
        fingerprint: of the model whose vectors it holds.
        count: vectors in it.
        last: the greatest id among them.
        probes: cells to look into; 0 where search is exact.
        cells: there are.
        aim: the recall that the probes were chosen for.
        recall: measured with so many.
    """

    file: str
    sha256: str
    fingerprint: str
    count: int
    last: int
    probes: int = 0
    cells: int = 0
    aim: float = 1.0
    recall: float = 1.0
    version: int = VERSION


def description_file(folder: Path, fingerprint: str) -> Path:
    """Where the description of a model's index file lies."""
    return folder / f"search-{fingerprint[:16]}.json"


def read_index(folder: Path, fingerprint: str) -> tuple[Any, Description] | None:
    """The index, memory-mapped, and its description; None if either is missing, damaged or of something else."""
    import faiss

    for _ in range(3):  # another process may be putting a new one in its place
        try:
            description = Description(**json.loads(description_file(folder, fingerprint).read_text("utf-8")))
            if description.version != VERSION or description.fingerprint != fingerprint:
                return None
            path = folder / Path(description.file).name
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != description.sha256:
                    return None
            index = mapped(path, description)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, RuntimeError):
            return None
        return (index, description) if isinstance(index, faiss.Index) and index.ntotal == description.count else None
    return None


def mapped(path: Path, description: Description) -> Any:
    """An index file as FAISS reads it: what is not looked at stays on the disk."""
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP if description.probes else faiss.IO_FLAG_MMAP_IFC)


def write_index(folder: Path, index: Any, description: Description) -> Description:
    """Puts an index file in place, with its description, and removes the one that was there before.

    Raises:
        OSError, RuntimeError: it can't be written; what was there before is there still, or nothing is.
    """
    import faiss

    aside = folder / f".search-{os.getpid()}.writing"
    try:
        faiss.write_index(index, str(aside))
        with aside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        name = f"search-{description.fingerprint[:16]}-{digest[:16]}.faiss"
        aside.replace(folder / name)
        described = replace(description, file=name, sha256=digest)
        write_description(folder, described)
    finally:
        aside.unlink(missing_ok=True)
    for old in folder.glob(f"search-{description.fingerprint[:16]}-*.faiss"):
        if old.name != name:
            with suppress(OSError):
                old.unlink()
    return described


def write_description(folder: Path, description: Description) -> None:
    """Puts a description in place.

    Raises:
        OSError: it can't be written; what was there before is there still.
    """
    aside = folder / f".search-{os.getpid()}.describing"
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(description)))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(description_file(folder, description.fingerprint))
        _sync(folder)
    finally:
        aside.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Brings the names in a folder to disk, where the system can (Windows can't)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
