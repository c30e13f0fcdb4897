"""Indexes of shards behind the server."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_shards import jpeg, write_shards

import serving
from beholder import DualEncoder
from beholder.scale.segments import ShardIndex
from command import beholder
from serving import Running, data_address

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An index of two shards of ten pictures each, with thumbnails."""
    folder = tmp_path_factory.mktemp("index")
    shards = write_shards(folder / "shards", 2, 10)
    options = ("--out", folder / "parts", "--model", tiny_model, "--thumbnails", "24")
    assert beholder("scale", "embed", shards, *options).returncode == 0
    assert beholder("scale", "index", folder / "parts", "--out", folder / "pictures").returncode == 0
    return folder / "pictures"


@pytest.fixture(scope="module")
def served(tiny_model: Path, index: Path) -> Iterator[Running]:
    with serving.running({"served": DualEncoder.from_pretrained(tiny_model)}, vectors=[str(index)]) as running:
        yield running


SEARCH = "/v1/vectors/search"


def test_words_and_pictures_find_what_the_command_finds(served: Running, index: Path) -> None:
    [about] = served.ask("GET", "/v1/vectors").json["data"]
    assert about == {"id": "pictures", "object": "index", "pictures": 20, "model": "served"}
    body = {"query": "the dog", "minus": "a cat", "top": 5}
    found = served.ask("POST", SEARCH, body).json
    expected = beholder("search", "the dog", "--minus", "a cat", "--vectors", index, "--top", "5", "--json")
    assert [hit["key"] for hit in found["data"]] == [line.split('"')[5] for line in expected.stdout.splitlines()]
    example = data_address(jpeg(1, 7), "image/jpeg")
    [same] = served.ask("POST", SEARCH, {"image": example, "top": 1, "index": "pictures"}).json["data"]
    assert same["key"] == "001-007" and same["score"] == pytest.approx(1, abs=1e-3)
    assert same["shard"] == "001.tar" and len(same["sha256"]) == 64  # of paths, the last component alone
    both = served.ask("POST", SEARCH, {"query": "the dog", "image": example, "minus_image": data_address(jpeg(0, 1))})
    assert len(both.json["data"]) == 10
    only = served.ask("POST", SEARCH, {"query": "the dog", "where": 'caption:"number 3"'}).json["data"]
    assert {hit["key"] for hit in only} == {"000-003", "001-003"}


def test_columns_vectors_and_thumbnails_are_served_by_number(served: Running, index: Path) -> None:
    opened = ShardIndex(index)
    row = served.ask("GET", "/v1/vectors/pictures/rows/13").json
    assert row["id"] == 13 and row["key"] == opened.row(13)["key"] and "thumbnail" not in row
    stored = served.ask("GET", "/v1/vectors/pictures/rows/13/vector").json["embedding"]
    assert np.array_equal(stored, opened.vector(13).astype(np.float64))
    thumbnail = served.ask("GET", "/v1/vectors/pictures/rows/13/thumbnail")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.data)).size == (24, 20)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_value"),
        ({"minus": "a cat"}, 400, "invalid_value"),
        ({"query": "a", "where": "width>wide"}, 400, "invalid_filter"),
        ({"query": "a", "where": "language:en"}, 400, "invalid_filter"),
        ({"query": "a", "where": "width>1 " * 1000}, 400, "invalid_filter"),
        ({"query": "a", "where": "shard:/etc"}, 400, "invalid_filter"),
        ({"query": "a", "index": "../pictures"}, 404, "index_not_found"),
        ({"query": "a", "top": 0}, 400, "greater_than_equal"),
        ({"query": "a " * 1000}, 400, "context_length_exceeded"),
        ({"query": "a", "minus": "a"}, 400, "invalid_value"),
        ({"image": "/etc/passwd"}, 400, "invalid_image"),
        ({"image": "http://169.254.169.254/"}, 400, "invalid_image"),
        ({"query": "a", "folder": "x"}, 400, "extra_forbidden"),
    ],
)
def test_a_bad_query_is_refused(served: Running, body: dict[str, object], status: int, code: str) -> None:
    answer = served.ask("POST", SEARCH, body)
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize("path", ["rows/20", "rows/20/vector", "rows/20/thumbnail", "rows/99999999999999"])
def test_a_row_that_is_not_there_is_named(served: Running, path: str) -> None:
    answer = served.ask("GET", f"/v1/vectors/pictures/{path}")
    assert (answer.status, answer.code) == (404, "row_not_found")
    assert served.ask("GET", "/v1/vectors/pictures/rows/-1").status == 400
    assert served.ask("GET", f"/v1/vectors/other/{path}").code == "index_not_found"


def test_the_model_of_an_index_is_loaded_if_it_is_not_served(index: Path) -> None:
    with serving.running(vectors=[str(index)]) as running:
        assert [one["model"] for one in running.ask("GET", "/v1/vectors").json["data"]] == ["tiny"]
        assert len(running.ask("POST", SEARCH, {"query": "the dog"}).json["data"]) == 10


def test_a_server_without_an_index_says_so(server: Running) -> None:
    answer = server.ask("POST", SEARCH, {"query": "a"})
    assert (answer.status, answer.code) == (404, "index_not_found")
    assert server.ask("GET", "/v1/vectors").json["data"] == []


def test_what_is_no_index_is_refused_at_the_start(tmp_path: Path, tiny_model: Path) -> None:
    run = beholder("serve", "--model", tiny_model, "--vectors", tmp_path / "nothing", "--port", "0")
    assert run.returncode == 2 and "there is no index here" in run.stderr
