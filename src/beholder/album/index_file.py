"""The FAISS index file next to the album, which is derived from it and rebuilt whenever in doubt.

It is written atomically under a name made from its content; a description next to it says which file is valid. FAISS
only ever opens a file of ours whose checksum is the one in the description.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from beholder.files import atomic_files, write_text

VERSION = 2


@dataclass(frozen=True)
class Description:
    """The description of an index file, which says whether it may be read.

    Attributes:
        file: its name.
        sha256: of its bytes.
        fingerprint: of the model whose embeddings it holds.
        count: number of vectors.
        last: the greatest id among them.
        probes: number of cells that a search visits (FAISS's ``nprobe``); 0 for exact search.
        cells: number of cells (FAISS's ``nlist``).
        aim: recall for which ``probes`` was chosen.
        recall: measured with it.
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
    """Return the path of the description of a model's index file."""
    return folder / f"search-{fingerprint[:16]}.json"


def read_index(folder: Path, fingerprint: str) -> tuple[Any, Description] | None:
    """Return the memory-mapped index and its description, or None if either is missing, damaged or of another model."""
    import faiss

    for _ in range(3):  # another process may be replacing it
        try:
            description = Description(**json.loads(description_file(folder, fingerprint).read_text("utf-8")))
            if description.version != VERSION or description.fingerprint != fingerprint:
                return None
            path = folder / Path(description.file).name
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != description.sha256:
                    return None
            index = map_index(path, description)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, RuntimeError):
            return None
        return (index, description) if isinstance(index, faiss.Index) and index.ntotal == description.count else None
    return None


def map_index(path: Path, description: Description) -> Any:
    """Open an index file memory-mapped: parts that no search visits stay on disk."""
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP if description.probes else faiss.IO_FLAG_MMAP_IFC)


def write_index(folder: Path, index: Any, description: Description) -> Description:
    """Write an index file and its description, and remove the previous file.

    Returns:
        The description, with the file's name and checksum.

    Raises:
        OSError, RuntimeError: writing failed; the previous file is still there, or none.
    """
    import faiss

    stem = f"search-{description.fingerprint[:16]}"
    with atomic_files(folder) as scratch:
        file = scratch / "index"
        faiss.write_index(index, str(file))
        with file.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        name = f"{stem}-{digest[:16]}.faiss"
        file.rename(scratch / name)
    written = replace(description, file=name, sha256=digest)
    write_description(folder, written)
    for old in folder.glob(f"{stem}-*.faiss"):
        if old.name != name:
            with suppress(OSError):
                old.unlink()
    return written


def write_description(folder: Path, description: Description) -> None:
    """Write a description atomically.

    Raises:
        OSError: writing failed; the previous description is still there.
    """
    write_text(description_file(folder, description.fingerprint), json.dumps(asdict(description)))
