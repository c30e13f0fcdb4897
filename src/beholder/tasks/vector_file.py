"""Vectors in a file: NumPy's .npy beside a list of names, or one Parquet table."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from beholder.errors import MissingExtra

Row = tuple[str, str, np.ndarray]  # name, "image" or "text", (E,)


def write_npy(path: Path, rows: Sequence[Row]) -> None:
    """(n, E) float32 into ``path``, and the n names, a line each, into a .txt file of the same name."""
    names = "".join(name.replace("\n", " ") + "\n" for name, _, _ in rows)
    path.with_suffix(".txt").write_text(names, encoding="utf-8")
    with path.open("wb") as file:
        np.save(file, np.stack([embedding for _, _, embedding in rows]) if rows else np.zeros((0, 0), np.float32))


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """A table with the columns input, kind and embedding (a list of float32)."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("writing Parquet", "parquet") from error
    columns = {
        "input": pyarrow.array([name for name, _, _ in rows], pyarrow.string()),
        "kind": pyarrow.array([kind for _, kind, _ in rows], pyarrow.string()),
        "embedding": pyarrow.array([embedding for _, _, embedding in rows], pyarrow.list_(pyarrow.float32())),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


VECTOR_FILES: dict[str, Callable[[Path, Sequence[Row]], None]] = {".npy": write_npy, ".parquet": write_parquet}


def write_vectors(path: Path, rows: Sequence[Row]) -> None:
    """Writes vectors aside and moves them into place, so that a file of this name is always whole.

    Args:
        path: ends in one of `VECTOR_FILES`.
        rows: name, kind and vector of each input.
    """
    aside = path.with_name(f".{path.stem}.writing{path.suffix}")
    VECTOR_FILES[path.suffix](aside, rows)
    aside.replace(path)
    if aside.with_suffix(".txt").exists():
        aside.with_suffix(".txt").replace(path.with_suffix(".txt"))
