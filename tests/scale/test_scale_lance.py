import json
from pathlib import Path

import numpy as np
import pytest
from small_index import write_parts

from beholder.scale import lance_index
from command import beholder

lance = pytest.importorskip("lance", reason="pylance reads Lance datasets")
pytestmark = pytest.mark.slow

EMBEDDING = 16


def unit(count: int, seed: int) -> np.ndarray:
    """Return unit vectors (count, E) float32 around common centers."""
    centers = np.random.default_rng(0).normal(size=(20, EMBEDDING))
    random = np.random.default_rng(seed)
    vectors = centers[random.integers(0, 20, count)] + 0.5 * random.normal(size=(count, EMBEDDING))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_lance_finds_what_was_indexed_and_new_parts_are_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit(900, 1)
    monkeypatch.setattr(lance_index, "SEGMENT_VECTORS", 400)
    write_parts(tmp_path / "parts", vectors[:600], shards=3)
    out = tmp_path / "pictures.lance"
    order = ("scale", "index", tmp_path / "parts", "--out", out, "--kind", "lance", "--json")
    run = beholder(*order)
    *groups, summary = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, run.stderr
    assert [line["rows"] for line in groups] == [400, 200] and (summary["rows"], summary["indexed"]) == (600, 600)
    write_parts(tmp_path / "parts", vectors, shards=3, first=600)
    check = beholder(*order, "--check")
    assert check.returncode == 1 and json.loads(check.stdout)["missing"] == 3
    assert json.loads(beholder(*order).stdout.splitlines()[-1])["indexed"] == 900
    check = beholder(*order, "--check")
    found = json.loads(check.stdout)
    assert check.returncode == 0 and (found["vectors"], found["missing"], found["gone"]) == (900, 0, 0)
    assert found["recall"] >= 0.9
    dataset = lance.dataset(str(out))
    query = unit(1, 2)[0]
    nearest = {"column": "vector", "q": query.astype(np.float16), "k": 5, "refine_factor": 20, "nprobes": 20}
    rows = dataset.to_table(nearest=nearest, columns=["key", "caption", "shard"]).to_pylist()
    expected = np.argsort(-(vectors.astype(np.float16).astype(np.float32) @ query))[:5]
    assert len({row["key"] for row in rows} & {str(number) for number in expected}) >= 4
    assert all(row["caption"] == f"picture {row['key']}" for row in rows)
    assert dataset.count_rows("width >= 890") == 10
    assert "is a Lance dataset" in beholder("search", "x", "--vectors", out).stderr


def test_a_build_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parts(tmp_path / "parts", unit(400, 3), shards=4)
    monkeypatch.setattr(lance_index, "SEGMENT_VECTORS", 100)
    read, calls = lance_index.read_vectors, []

    def read_until_full(*arguments: object) -> object:
        calls.append(arguments[1])
        if len(calls) > 4:  # a part is read for its columns, and then for its rows
            raise OSError(28, "No space left on device")
        return read(*arguments)  # type: ignore[arg-type]

    order = ("scale", "index", tmp_path / "parts", "--out", tmp_path / "a.lance", "--kind", "lance", "--json")
    with monkeypatch.context() as full:
        full.setattr(lance_index, "read_vectors", read_until_full)
        run = beholder(*order)
    assert run.returncode == 2 and "No space left on device" in run.stderr and len(run.stdout.splitlines()) == 2
    run = beholder(*order)
    assert run.returncode == 0 and len(run.stdout.splitlines()) == 3
    keys = lance.dataset(str(tmp_path / "a.lance")).to_table(columns=["key"])["key"].to_pylist()
    assert sorted(keys, key=int) == [str(number) for number in range(400)]


@pytest.mark.parametrize(("out", "options", "reason"), [
    ("index", (), "Lance datasets end in .lance"),
    ("a.lance", ("--recall", "0.9"), "--recall is for --kind faiss"),
])  # fmt: skip
def test_what_lance_cannot_do_is_refused(tmp_path: Path, out: str, options: tuple[str, ...], reason: str) -> None:
    write_parts(tmp_path / "parts", unit(10, 4), shards=1)
    run = beholder("scale", "index", tmp_path / "parts", "--out", tmp_path / out, "--kind", "lance", *options)
    assert run.returncode == 2 and reason in run.stderr
