import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_shards import jpeg, tar_of

from beholder.errors import InvalidFilter
from beholder.scale.select import near_duplicates
from beholder.scale.where import mask_of, parse_where
from beholder.training.shards import read_shard
from command import beholder


def test_of_near_rows_the_better_one_stays() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 16))
    vectors[100] = vectors[7] + 0.01 * random.normal(size=16)
    vectors[200] = vectors[8] + 0.01 * random.normal(size=16)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = np.full(300, np.nan)
    quality[200] = 0.9
    dropped = near_duplicates(vectors.astype(np.float16), quality, 0.95)
    assert np.flatnonzero(dropped).tolist() == [8, 100]


def test_blocks_of_a_large_cluster_are_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 16))
    vectors = np.concatenate([vectors, vectors[::-1]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr("beholder.scale.select.BLOCK", 7)
    assert np.flatnonzero(near_duplicates(vectors.astype(np.float16), np.zeros(100), 0.99)).tolist() == [
        *range(50, 100)
    ]


def test_selected_pictures_become_shards_that_training_reads(tmp_path: Path, tiny_model: Path) -> None:
    members = []
    for number in range(6):
        size = (48, 40) if number % 2 else (20, 24)
        members += [(f"{number}.jpg", jpeg(number, size=size)), (f"{number}.txt", f"the dog {number}".encode())]
    copies = [("a.jpg", jpeg(1)), ("a.txt", b"a copy"), ("b.jpg", b"broken"), ("c.jpg", jpeg(7)), ("c.txt", b"a cat")]
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").write_bytes(tar_of(members))
    (tmp_path / "shards" / "1.tar").write_bytes(tar_of(copies))
    beholder("scale", "embed", tmp_path / "shards", "--out", tmp_path / "parts", "--model", tiny_model, "--score")
    order = ("scale", "select", tmp_path / "parts", "--where", "width>=48 -caption:cat", "--json")
    run = beholder(*order, "--out", tmp_path / "new", "--per-shard", "2")
    assert json.loads(run.stdout) == {
        "rows": 9, "failed": 1, "filtered": 4, "identical": 1, "near": 0, "selected": 3, "shards": 2
    }  # fmt: skip
    skipped: list[str] = []
    found = []
    for shard in sorted((tmp_path / "new").iterdir()):
        found += [example for example in read_shard(str(shard), lambda name, _: skipped.append(name)) if example]
        with tarfile.open(shard) as archive:
            assert len(archive.getnames()) in (2, 4)
    assert not skipped and {example.picture for example in found} == {jpeg(number) for number in (1, 3, 5)}
    assert len({example.name.rpartition("/")[2] for example in found}) == 3
    assert "holds selected shards already" in beholder(*order, "--out", tmp_path / "new").stderr


def test_near_duplicates_are_left_out(tmp_path: Path, tiny_model: Path) -> None:
    members = [(f"{number}.jpg", jpeg(3, size=(48 + number, 40))) for number in range(4)]
    (tmp_path / "0.tar").write_bytes(tar_of(members))
    beholder("scale", "embed", tmp_path / "0.tar", "--out", tmp_path / "parts", "--model", tiny_model)
    order = ("scale", "select", tmp_path / "parts", "--json")
    few = json.loads(beholder(*order, "--out", tmp_path / "few", "--dedup", "0.2").stdout)
    assert (few["near"], few["selected"]) == (3, 1)
    assert json.loads(beholder(*order, "--out", tmp_path / "all").stdout)["selected"] == 4
    assert "embed with --score" in beholder(*order, "--out", tmp_path / "x", "--where", "match>0.5").stderr


@pytest.mark.parametrize("text", ["width", "width>wide", "unknown>3", "caption>3", "language:english", "language>en"])
def test_a_filter_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidFilter, match="invalid filter at"):
        parse_where(text)


def test_captions_are_told_apart_by_their_language() -> None:
    captions = [
        "a dog runs on the beach",
        "ein Hund rennt am Strand",
        "un chien court sur la plage",
        "一只狗在海滩上奔跑",
        None,
        " ",
    ]
    rows = pa.table({"caption": captions})
    for where, holds in {
        "language:en": [0],
        "language:DE,fr": [1, 2],
        "-language:en": [1, 2, 3, 4, 5],
        "language:zh caption:狗": [3],
    }.items():
        assert np.flatnonzero(mask_of(rows, parse_where(where))).tolist() == holds
