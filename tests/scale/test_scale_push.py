import json
from pathlib import Path

import numpy as np
import pytest
from small_index import write_index

from beholder.errors import InvalidSetting
from beholder.scale.push import DatabaseAddress
from command import beholder

EMBEDDING = 8


def unit(count: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors (count, E), as they are in half precision."""
    vectors = np.random.default_rng(seed).normal(size=(count, EMBEDDING))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def nearest(vectors: np.ndarray, query: np.ndarray) -> list[str]:
    """Return the keys of the three nearest."""
    return [str(row) for row in np.argsort(-(vectors @ query))[:3]]


@pytest.mark.parametrize(
    ("address", "server", "path", "collection"),
    [
        ("qdrant://localhost/pictures", "http://localhost:6333", None, "pictures"),
        ("qdrant+https://example.com:443/a", "https://example.com:443", None, "a"),
        ("milvus://[::1]:1/a", "http://[::1]:1", None, "a"),
        ("qdrant:folder/a", None, "folder", "a"),
        ("milvus:///data/m.db/a", None, "/data/m.db", "a"),
    ],
)
def test_an_address_names_a_server_or_a_path_and_a_collection(
    address: str, server: str | None, path: str | None, collection: str
) -> None:
    place = DatabaseAddress.parse(address)
    assert (place.server, place.path, place.collection) == (server, path, collection)


@pytest.mark.parametrize(
    "address",
    ["pictures", "qdrant://host", "qdrant://host/", "qdrant:///a", "qdrant://host/a/b", "pinecone://host/a",
     "qdrant+ftp://host/a", "qdrant://host:port/a", "qdrant://user:secret@host/a", "milvus://host/a?b=c"],
)  # fmt: skip
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        DatabaseAddress.parse(address)
    assert "secret" not in str(refused.value)


@pytest.mark.slow
def test_qdrant_finds_what_was_pushed_and_pushing_again_adds_nothing(tmp_path: Path) -> None:
    qdrant_client = pytest.importorskip("qdrant_client", reason="Qdrant's client has a local mode")
    vectors = unit(40)
    order = ("scale", "push", write_index(tmp_path, vectors), f"qdrant://{tmp_path}/qdrant/pictures", "--json")
    for _ in range(2):
        run = beholder(*order)
        assert run.returncode == 0 and json.loads(run.stdout)["rows"] == 40
    client = qdrant_client.QdrantClient(path=str(tmp_path / "qdrant"))
    try:
        assert client.count("pictures").count == 40
        query = unit(1, seed=1)[0]
        found = client.query_points("pictures", query=query.tolist(), limit=3).points
        assert [point.payload["key"] for point in found] == nearest(vectors, query)
        assert found[0].score == pytest.approx(float((vectors @ query).max()), abs=1e-3)
        assert found[0].payload == {
            "key": found[0].payload["key"],
            "shard": f"/shards/{int(found[0].payload['key']) // 20 * 20:05}.tar",
            "caption": f"picture {found[0].payload['key']}",
            "width": int(found[0].payload["key"]),
        }
    finally:
        client.close()
    (tmp_path / "other").mkdir()
    other = write_index(tmp_path / "other", np.eye(9, 16, dtype=np.float32))
    refused = beholder("scale", "push", other, f"qdrant://{tmp_path}/qdrant/pictures")
    assert refused.returncode == 2 and "a collection of vectors of 8 numbers, not 16" in refused.stderr


@pytest.mark.slow
def test_milvus_finds_what_was_pushed_and_pushing_again_adds_nothing(tmp_path: Path) -> None:
    pymilvus = pytest.importorskip("pymilvus", reason="Milvus's client")
    pytest.importorskip("milvus_lite", reason="Milvus without a server")
    vectors = unit(40)
    order = ("scale", "push", write_index(tmp_path, vectors), f"milvus://{tmp_path}/milvus.db/pictures", "--json")
    for _ in range(2):
        run = beholder(*order)
        assert run.returncode == 0 and json.loads(run.stdout)["rows"] == 40
    client = pymilvus.MilvusClient(str(tmp_path / "milvus.db"))
    try:
        query = unit(1, seed=1)[0]
        client.load_collection("pictures")
        [found] = client.search("pictures", [query.tolist()], limit=3, output_fields=["key", "shard", "caption"])
        assert [hit["entity"]["key"] for hit in found] == nearest(vectors, query)
        assert found[0]["entity"]["caption"] == f"picture {found[0]['entity']['key']}"
        assert len(client.query("pictures", filter="width >= 30", output_fields=["key"])) == 10
        assert len(client.query("pictures", filter="width >= 0", output_fields=["key"])) == 40
    finally:
        client.close()
    refused = beholder(
        "scale", "push", write_index(tmp_path / "other", np.eye(9, 16, dtype=np.float32)), order[3]
    )  # fmt: skip
    assert refused.returncode == 2 and "a collection of vectors of 8 numbers, not 16" in refused.stderr


def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client", reason="Qdrant's client")
    run = beholder("scale", "push", write_index(tmp_path, unit(2)), "qdrant://127.0.0.1:1/pictures")
    assert run.returncode == 2 and "qdrant://127.0.0.1:1/pictures: " in run.stderr and "refused" in run.stderr
