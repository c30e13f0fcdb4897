"""Embeddings in a file: NumPy's .npy next to a list of names, or a Parquet table."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra
from beholder.files import atomic_files, reported

Row = tuple[str, str, np.ndarray]  # name, "image" or "text", (E,)


def write_npy(path: Path, rows: Sequence[Row]) -> None:
    """Write (n, E) float32 to ``path``, and the n names, one per line, to a .txt file of the same name."""
    names = "".join(name.replace("\n", " ") + "\n" for name, _, _ in rows)
    path.with_suffix(".txt").write_bytes(names.encode("utf-8", "surrogateescape"))
    with path.open("wb") as file:
        np.save(file, np.stack([embedding for _, _, embedding in rows]) if rows else np.zeros((0, 0), np.float32))


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write a table with the columns input, kind and embedding (a list of float32).

    Parquet holds UTF-8 only, so bytes of a file name that are not UTF-8 are escaped.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("writing Parquet", "parquet") from error
    names = [name.encode("utf-8", "backslashreplace").decode() for name, _, _ in rows]
    columns = {
        "input": pyarrow.array(names, pyarrow.string()),
        "kind": pyarrow.array([kind for _, kind, _ in rows], pyarrow.string()),
        "embedding": pyarrow.array([embedding for _, _, embedding in rows], pyarrow.list_(pyarrow.float32())),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


VECTOR_FILES: dict[str, Callable[[Path, Sequence[Row]], None]] = {".npy": write_npy, ".parquet": write_parquet}


def write_vectors(path: Path, rows: Sequence[Row]) -> None:
    """Write embeddings atomically.

    Args:
        path: ends in one of `VECTOR_FILES`.
        rows: name, kind and embedding of each input.

    Raises:
        InvalidSetting: the name ends otherwise.
        WriteFailed: the disk is full, or there is no such folder.
    """
    suffix = path.suffix.lower()
    if suffix not in VECTOR_FILES:
        raise InvalidSetting(f"{path}: the file's name must end in {' or '.join(VECTOR_FILES)}")
    with reported(path), atomic_files(path.parent) as scratch:
        VECTOR_FILES[suffix](scratch / path.name, rows)
