import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_shards import jpeg, write_shards

from beholder import DualEncoder
from beholder.errors import InvalidSetting
from beholder.files import write_bytes
from beholder.scale import build_index
from beholder.scale.build_index import check_index
from beholder.scale.parts import Row, RunSettings, encode_part, start_run
from beholder.scale.segments import CODES, INDEX, VERSION, Manifest, ShardIndex
from beholder.scale.storage import Location
from command import beholder

EMBEDDING = 32


def clustered(count: int, seed: int) -> np.ndarray:
    """Return unit vectors (count, E) around common centers."""
    centers = np.random.default_rng(0).normal(size=(40, EMBEDDING))
    random = np.random.default_rng(seed)
    vectors = centers[random.integers(0, 40, count)] + 0.5 * random.normal(size=(count, EMBEDDING))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_parts(out: Path, parts: int, each: int, first: int = 0) -> np.ndarray:
    """Write parts of vectors, every tenth row without one; return the vectors in the order of keys."""
    settings = RunSettings("none", "fingerprint", EMBEDDING)
    start_run(Location.of(str(out)), settings)
    written = []
    for number in range(first, first + parts):
        vectors = clustered(each, number + 1)
        rows = [
            Row(f"{number:02}-{place:04}", caption=f"caption {place}", vector=one) for place, one in enumerate(vectors)
        ]
        rows[::10] = [Row(row.key, error="is broken") for row in rows[::10]]
        shard = f"/shards/{number:02}.tar"
        write_bytes(out / settings.part(shard), encode_part(rows, settings, shard, "size 1"))
        written.append(np.delete(vectors, np.arange(0, each, 10), axis=0))
    return np.concatenate(written).astype(np.float16).astype(np.float32)


def test_an_index_finds_what_exact_search_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = write_parts(tmp_path / "parts", 5, 1000)
    monkeypatch.setattr(build_index, "SEGMENT_VECTORS", 2000)
    run = beholder("scale", "index", tmp_path / "parts", "--out", tmp_path / "index", "--json")
    *segments, summary = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["rows"] for line in segments] == [1800, 1800, 900]
    assert summary["rows"] == 4500 and summary["recall"] >= 0.95
    index = ShardIndex(tmp_path / "index")
    best = []
    for query in clustered(20, 99):
        hits = index.search(query, 10)
        cosines = np.sort(vectors @ query)[::-1][:10]
        best.append(np.isclose([hit.cosine for hit in hits], cosines, atol=1e-5).mean())
        assert hits[0].row["key"][:2] == Path(hits[0].row["shard"]).stem
        assert hits[0].row["caption"] == f"caption {int(hits[0].row['key'][3:])}"
    assert np.mean(best) >= 0.9


def test_new_parts_get_segments_of_their_own_and_check_names_what_is_missing(tmp_path: Path) -> None:
    parts, index = tmp_path / "parts", tmp_path / "index"
    write_parts(parts, 2, 300)
    beholder("scale", "index", parts, "--out", index)
    [codes] = index.glob(f"segment-*/{CODES}")
    before = codes.stat().st_mtime_ns
    write_parts(parts, 1, 300, first=2)
    check = beholder("scale", "index", parts, "--out", index, "--check", "--json")
    assert check.returncode == 1 and json.loads(check.stdout)["missing"] == 1
    assert beholder("scale", "index", parts, "--out", index).returncode == 0
    found = check_index(index)
    assert (found.vectors, found.missing, found.gone) == (810, 0, 0) and found.recall >= 0.9
    assert codes.stat().st_mtime_ns == before


def test_an_index_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parts(tmp_path / "parts", 3, 100)
    monkeypatch.setattr(build_index, "SEGMENT_VECTORS", 100)
    build, built = build_index._build_segment, []

    def build_one(*arguments: object) -> object:
        if len(built) == 1:
            raise OSError(28, "No space left on device")
        built.append(arguments[1])
        return build(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as full:
        full.setattr(build_index, "_build_segment", build_one)
        run = beholder("scale", "index", tmp_path / "parts", "--out", tmp_path / "index")
    assert run.returncode == 2 and "No space left on device" in run.stderr
    assert "there is no index here" in beholder("search", "x", "--vectors", tmp_path / "index").stderr
    [kept] = (tmp_path / "index").glob("segment-*")
    before = kept.stat().st_mtime_ns
    assert beholder("scale", "index", tmp_path / "parts", "--out", tmp_path / "index").returncode == 0
    assert kept.stat().st_mtime_ns == before and len(ShardIndex(tmp_path / "index")) == 270


def test_damaged_codes_are_not_opened(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", 1, 100)
    beholder("scale", "index", tmp_path / "parts", "--out", tmp_path / "index")
    [codes] = (tmp_path / "index").glob(f"segment-*/{CODES}")
    content = bytearray(codes.read_bytes())
    content[len(content) // 2] ^= 1
    codes.write_bytes(content)
    assert "is damaged" in beholder("search", "x", "--vectors", tmp_path / "index").stderr


def test_search_finds_pictures_of_shards(tmp_path: Path, tiny_model: Path) -> None:
    shards = write_shards(tmp_path / "shards", 2, 20)
    beholder("scale", "embed", shards, "--out", tmp_path / "parts", "--model", tiny_model)
    assert beholder("scale", "index", tmp_path / "parts", "--out", tmp_path / "index").returncode == 0
    (tmp_path / "example.jpg").write_bytes(jpeg(1, 7))
    order = ("search", "--vectors", tmp_path / "index", "--json", "--top", "3")
    run = beholder(*order, "--image", tmp_path / "example.jpg")
    hits = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(hits) == 3 and hits[0]["image"] == "001-007" and hits[0]["score"] == pytest.approx(1, abs=1e-3)
    assert hits[0]["shard"] == str(shards / "001.tar") and hits[0]["caption"] == "the dog number 7"
    encoder = DualEncoder.from_pretrained(tiny_model)
    images = encoder.embed_images([jpeg(shard, place) for shard in range(2) for place in range(20)])
    for words in ("the dog", "a cat"):
        hits = [json.loads(line) for line in beholder(*order, words).stdout.splitlines()]
        expected = np.sort(images @ encoder.embed_texts([words])[0])[::-1][:3]
        assert [hit["score"] for hit in hits] == pytest.approx(expected, abs=2e-3)
    narrow = beholder(*order, "the dog", "--where", 'caption:"NUMBER 1"').stdout.splitlines()
    assert len(narrow) == 3 and {json.loads(line)["caption"].split()[-1][0] for line in narrow} == {"1"}
    assert beholder(*order, "x", "--where", "width>4000").stdout == ""
    for where in ("language:en", "folder:x", "width>wide", 'caption:"open'):
        refused = beholder(*order, "x", "--where", where)
        assert refused.returncode == 2 and "invalid filter" in refused.stderr
    assert "not for --vectors" in beholder(*order, "x", "--album", "a").stderr


def test_a_filter_leaves_what_exact_search_over_the_rest_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = write_parts(tmp_path / "parts", 2, 300)
    monkeypatch.setattr(build_index, "SEGMENT_VECTORS", 300)
    build_index.build_index(str(tmp_path / "parts"), tmp_path / "index")
    index = ShardIndex(tmp_path / "index")
    captions = [row["caption"] for segment in index.segments for row in segment.table.read().to_pylist()]
    assert captions[300] == index.row(300)["caption"]
    stored = np.array([index.vector(number) for number in range(len(index))], np.float32)
    assert np.array_equal(np.sort(stored, axis=0), np.sort(vectors, axis=0))
    for exact in (20_000, 0):  # all that is left is compared, or found by codes
        monkeypatch.setattr("beholder.scale.segments.EXACT", exact)
        for where, holds in {
            "caption:7": [("7" in caption) for caption in captions],
            '-caption:7 caption:"CAPTION 12"': [("caption 12" in one and "7" not in one) for one in captions],
            "width>1": [False] * len(captions),
        }.items():
            best = []
            for query in clustered(10, 98):
                found, _ = index.search_rows(query, 10, where)
                allowed = np.flatnonzero(holds)
                assert set(found) <= set(allowed.tolist())
                best.append(set(found) == set(allowed[np.argsort(-(stored[allowed] @ query))[:10]].tolist()))
            assert np.mean(best) >= (1.0 if exact else 0.7)
    with pytest.raises(IndexError, match="there is no vector 540"):
        index.row(540)


def test_thumbnails_are_kept_for_those_who_ask(tmp_path: Path, tiny_model: Path) -> None:
    shards = write_shards(tmp_path / "shards", 1, 3)
    order = ("scale", "embed", shards, "--model", tiny_model)
    assert beholder(*order, "--out", tmp_path / "parts", "--thumbnails", "24").returncode == 0
    assert "thumbnail 24, not None" in beholder(*order, "--out", tmp_path / "parts").stderr
    beholder("scale", "index", tmp_path / "parts", "--out", tmp_path / "index")
    index = ShardIndex(tmp_path / "index")
    for number in range(3):
        assert Image.open(io.BytesIO(index.thumbnail(number) or b"")).size == (24, 20)
        assert "thumbnail" not in index.row(number)
    beholder(*order, "--out", tmp_path / "without")
    beholder("scale", "index", tmp_path / "without", "--out", tmp_path / "other")
    assert ShardIndex(tmp_path / "other").thumbnail(0) is None


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "", ".", "a\\b"])
def test_a_manifest_that_leads_out_of_the_index_is_refused(tmp_path: Path, name: str) -> None:
    settings = {"model": "none", "fingerprint": "fingerprint", "embedding": EMBEDDING}
    segment = {"folder": name, "parts": [], "count": 1, "sha256": ""}
    manifest = {
        "source": "",
        "settings": settings,
        "segments": [segment],
        "cells": 1,
        "cells_sha256": "",
        "version": VERSION,
    }
    (tmp_path / INDEX).write_text(json.dumps(manifest))
    with pytest.raises(InvalidSetting, match="no name of a segment"):
        Manifest.load(tmp_path)
