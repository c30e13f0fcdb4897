from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from pyarrow import parquet
from small_shards import shard

from command import beholder

pytest.importorskip("moto.server", reason="moto serves S3 here")
pytest.importorskip("s3fs", reason="s3fs reads S3")

pytestmark = pytest.mark.slow


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that speaks S3 on loopback, with an empty bucket; return its address."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


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
