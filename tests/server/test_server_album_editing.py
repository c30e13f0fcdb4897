"""Marks for many pictures, layouts, and indexing from the page: only allowed folders, and no path in or out."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albums_to_serve
import pytest

import serving
from beholder import Album, DualEncoder
from beholder.errors import InvalidSetting
from beholder.server.album_indexing import AllowedFolders
from beholder.server.http_errors import HTTPError
from beholder.server.settings import ServerSettings
from serving import Running, file_of, picture


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Allowed folders with a link out of them, a hidden folder and a broken file."""
    for number, name in enumerate(["2024/a.jpg", "2024/May/b.jpg", ".hidden/c.jpg"]):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_of(picture(number), "JPEG"))
    (tmp_path / "pictures" / "2024" / "broken.jpg").write_bytes(b"nothing")
    (tmp_path / "pictures" / "2024" / "film.mp4").write_bytes(b"nothing")
    (tmp_path / "private").mkdir()
    (tmp_path / "pictures" / "out").symlink_to(tmp_path / "private")
    return tmp_path / "pictures"


@pytest.fixture
def site(tmp_path: Path, pictures: Path, encoder: DualEncoder) -> Iterator[Running]:
    folder = albums_to_serve.photographs(tmp_path, encoder, 8)
    with serving.running({"tiny": encoder}, {}, [folder], folders=(pictures,)) as running:
        yield running


def wait_until_indexed(site: Running) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (progress := site.ask("GET", "/v1/albums/holiday/index").json)["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return progress


def test_a_layout_has_proportions_and_months(site: Running) -> None:
    answer = site.ask("GET", "/v1/albums/holiday/ids?layout=true&order=newest").json
    plain = site.ask("GET", "/v1/albums/holiday/ids?order=newest").json
    assert answer["ids"] == plain["ids"] and set(answer["ratios"]) == {133}
    months = answer["months"]
    assert sum(count for _, count in months) == len(answer["ids"])
    dated = [month for month, _ in months if month]
    assert dated == sorted(dated, reverse=True) and all(len(month) == 7 for month in dated)


def test_many_pictures_are_rated_labeled_and_tagged_at_once(site: Running) -> None:
    ids = site.ask("GET", "/v1/albums/holiday/ids").json["ids"]
    body = {"ids": [*ids[:3], 999_999], "rating": 4, "label": "Red", "add_tags": ["trip"]}
    assert site.post("/v1/albums/holiday/marks", body).json["changed"] == 3
    rows = site.ask("GET", f"/v1/albums/holiday/pictures?ids={ids[0]},{ids[3]}").json["data"]
    assert (rows[0]["rating"], rows[0]["label"]) == (4, "Red") and "trip" in rows[0]["tags"]
    assert (rows[1]["rating"], rows[1]["label"]) == (None, None)
    assert site.ask("GET", "/v1/albums/holiday/ids?where=rating%3E%3D4%20tag:trip").json["ids"] == ids[:3]
    facets = site.ask("GET", "/v1/albums/holiday").json
    assert facets["ratings"] == [["4", 3]] and facets["labels"] == [["Red", 3]]
    site.post("/v1/albums/holiday/marks", {"ids": ids[:1], "remove_tags": ["trip"], "label": ""})
    assert site.ask("GET", f"/v1/albums/holiday/pictures/{ids[0]}").json["label"] is None
    for wrong in ({"ids": []}, {"ids": ids, "rating": 6}, {"ids": [0]}, {"ids": ids, "path": "/"}):
        assert site.post("/v1/albums/holiday/marks", wrong).status == 400, wrong


def test_an_allowed_folder_is_added_with_progress_and_problems(site: Running, pictures: Path) -> None:
    before = len(site.ask("GET", "/v1/albums/holiday/ids").json["ids"])
    assert site.ask("GET", "/v1/folders").json["data"] == [{"folder": "0", "name": "pictures"}]
    assert site.ask("GET", "/v1/folders?parent=0").json["data"] == [{"folder": "0/2024", "name": "2024"}]
    assert site.ask("GET", "/v1/albums/holiday/index").json["state"] == "idle"
    assert site.post("/v1/albums/holiday/index", {"folders": ["0/2024"]}).status == 202
    progress = wait_until_indexed(site)
    assert progress["state"] == "done" and progress["counts"] == {"added": 2, "failed": 1}
    assert progress["done"] == progress["total"] == 3
    assert [row["name"] for row in progress["failed"]] == ["2024/broken.jpg"] and progress["failed"][0]["reason"]
    assert len(progress["passed_over"]) == 1 and "1 videos (mp4)" in progress["passed_over"][0]
    assert str(pictures.parent) not in str(progress)
    assert len(site.ask("GET", "/v1/albums/holiday/ids").json["ids"]) == before + 2
    (pictures / "2024" / "new.jpg").write_bytes(file_of(picture(9), "JPEG"))
    site.post("/v1/albums/holiday/index", {"folders": []})
    assert wait_until_indexed(site)["counts"]["added"] == 1, "an update covers all folders that were indexed"
    found = {row["name"]: row for row in site.post("/v1/search", {"query": "new", "top": 3}).json["data"]}
    assert found["2024/new.jpg"]["named"], "its place among the others depends on a random model"


@pytest.mark.parametrize(
    "name",
    ["1", "x", "", "0/..", "0/../private", "0/out", "0/.hidden", "0/nothing", "0/2024/a.jpg", "/etc", "0//etc", "0/\0",
     "٠", "0/2024/../../private", "00000", "-1", "0/%2e%2e"],
)  # fmt: skip
def test_no_other_folder_can_be_named(site: Running, name: str) -> None:
    answer = site.post("/v1/albums/holiday/index", {"folders": [name]})
    assert answer.status == 404 and answer.code == "folder_not_found"
    assert site.ask("GET", "/v1/albums/holiday/index").json["state"] == "idle"


def test_allowed_folders_are_resolved_when_they_are_used(tmp_path: Path, pictures: Path) -> None:
    allowed = AllowedFolders([pictures])
    assert allowed.resolve("0/2024/May") == (pictures / "2024" / "May").resolve()
    (pictures / "later").symlink_to(pictures / "2024")
    assert allowed.resolve("0/later") == (pictures / "2024").resolve(), "a link within stays within"
    with pytest.raises(HTTPError):
        allowed.resolve("0/out")
    with pytest.raises(InvalidSetting, match="--folder"):
        ServerSettings(folders=(tmp_path / "missing",))


def test_a_read_only_server_changes_nothing(tmp_path: Path, pictures: Path, encoder: DualEncoder) -> None:
    folder = albums_to_serve.photographs(tmp_path, encoder, 8)
    with serving.running({"tiny": encoder}, {}, [folder], folders=(pictures,), read_only=True) as site:
        ids = site.ask("GET", "/v1/albums/holiday/ids").json["ids"]
        assert site.post("/v1/albums/holiday/marks", {"ids": ids, "rating": 5}).code == "read_only"
        assert site.post("/v1/albums/holiday/index", {"folders": []}).code == "read_only"
        assert site.ask("DELETE", "/v1/albums/holiday/index").code == "read_only"
        assert site.ask("GET", "/v1/folders").json["data"] == []


def test_an_empty_album_is_filled_and_searched(tmp_path: Path, pictures: Path, encoder: DualEncoder) -> None:
    Album.open(tmp_path / "empty").close()
    with serving.running({"tiny": encoder}, {}, [tmp_path / "empty"], folders=(pictures / "2024",)) as site:
        assert site.post("/v1/albums/empty/index", {"folders": ["0"]}).status == 202
        deadline = time.monotonic() + 60
        while site.ask("GET", "/v1/albums/empty/index").json["state"] == "running" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(site.post("/v1/search", {"query": "a dog"}).json["data"]) == 2
