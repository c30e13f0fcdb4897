from pathlib import Path

import numpy as np
import pytest

from beholder.errors import WriteFailed
from beholder.tasks.vector_file import write_vectors

ROWS = [
    ("一只猫.jpg", "image", np.array([0.6, 0.8], np.float32)),
    ("two\nlines", "text", np.array([1.0, 0.0], np.float32)),
]


def test_npy_contains_the_vectors_and_a_text_file_their_names(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.npy", ROWS)
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [row[2].tolist() for row in ROWS]
    assert (tmp_path / "v.txt").read_text("utf-8").splitlines() == ["一只猫.jpg", "two lines"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.npy", "v.txt"]


def test_parquet_contains_a_table_with_the_documented_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    write_vectors(tmp_path / "v.parquet", ROWS)
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["input", "kind", "embedding"]
    assert table.to_pydict() == {
        "input": ["一只猫.jpg", "two\nlines"],
        "kind": ["image", "text"],
        "embedding": [row[2].tolist() for row in ROWS],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["v.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_vectors(tmp_path / "v.npy", ROWS[:1])

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", disk_full)
    with pytest.raises(WriteFailed, match="No space"):
        write_vectors(tmp_path / "v.npy", ROWS)
    assert np.load(tmp_path / "v.npy").shape == (1, 2)
    assert (tmp_path / "v.txt").read_text("utf-8") == "一只猫.jpg\n"
