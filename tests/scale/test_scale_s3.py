import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet
from s3_server import s3_server
from small_shards import shard, write_shards

from command import beholder

pytest.importorskip("moto.server", reason="moto serves S3 here")
pytest.importorskip("s3fs", reason="s3fs reads S3")

pytestmark = pytest.mark.slow


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that speaks S3 on loopback, with an empty bucket; return its address."""
    with s3_server(monkeypatch) as address:
        yield address


def test_shards_on_s3_become_parts_on_s3(s3: str, tiny_model: Path) -> None:
    import s3fs

    files = s3fs.S3FileSystem()
    for number in range(3):
        files.pipe_file(f"bucket/in/{number:03}.tar", shard(number, 2))
    order = ("scale", "embed", "s3://bucket/in/{000..003}.tar", "--out", "s3://bucket/out", "--model", tiny_model)
    run = beholder(*order)
    assert run.returncode == 1 and "s3://bucket/in/003.tar: there is no such shard" in run.stderr
    files.invalidate_cache()
    parts = files.glob("bucket/out/part-*.parquet")
    assert len(parts) == 3 and b"003.tar" in files.cat_file("bucket/out/failed.jsonl")
    with files.open(parts[0]) as file, parquet.ParquetFile(file) as table:
        assert b'"version": "etag ' in table.schema_arrow.metadata[b"beholder"]
    files.pipe_file("bucket/in/003.tar", shard(3, 2))
    assert "2 pictures of 1 shards embedded; 3 shards were done before" in beholder(*order).stdout


def test_credentials_that_are_missing_are_named(s3: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    run = beholder("scale", "embed", "s3://bucket/in/*.tar", "--out", "s3://bucket/out", "--model", tiny_model)
    assert run.returncode == 2 and "can't be listed" in run.stderr and "redentials" in run.stderr


def test_machines_share_an_index_on_s3(
    s3: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    def machine(name: str) -> Path:
        """Have the following commands use the cache of another machine."""
        monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / name))
        return tmp_path / name / "scale"

    files, address = s3fs.S3FileSystem(), "s3://bucket/index"
    search = ("search", "the dog", "--vectors", address, "--json", "--top", "4")
    for batch, (builder, searcher) in enumerate([("one", "two"), ("three", "two")]):
        shards = write_shards(tmp_path / f"shards{batch}", batch + 1, 4)
        beholder("scale", "embed", shards, "--out", "s3://bucket/parts", "--model", tiny_model)
        machine(builder)
        run = beholder("scale", "index", "s3://bucket/parts", "--out", address, "--json")
        assert run.returncode == 0 and json.loads(run.stdout.splitlines()[-1])["rows"] == [4, 12][batch]
        files.invalidate_cache()
        assert len(files.glob("bucket/index/segment-*")) == batch + 1
        machine(searcher)
        assert len(beholder(*search).stdout.splitlines()) == 4
    copied = {path: path.stat().st_mtime_ns for path in machine("two").rglob("*.f16")}
    assert len(copied) == 2 and len(beholder(*search).stdout.splitlines()) == 4
    assert {path: path.stat().st_mtime_ns for path in machine("two").rglob("*.f16")} == copied
    machine("four")
    codes = files.glob("bucket/index/segment-*/codes.faiss")[0]
    files.pipe_file(codes, b"x" + files.cat_file(codes)[1:])
    assert "is damaged" in beholder(*search).stderr
    assert "there is no index here" in beholder("search", "x", "--vectors", "s3://bucket/nowhere").stderr
