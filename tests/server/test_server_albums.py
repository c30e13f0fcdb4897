"""Albums over HTTP: results match the library, and writes touch only what they should."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import albums_to_serve
import pytest
from albums_to_serve import MARKUP
from PIL import Image

import serving
from beholder import Album, DualEncoder, VisionLanguageModel
from beholder.errors import AlbumNotFound, InvalidSetting
from beholder.pictures.caption_metadata import read_caption
from beholder.server.background_jobs import BackgroundJobs
from beholder.server.service import LoadedModels, Service
from beholder.server.settings import ServerSettings
from serving import Running, data_address, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder: DualEncoder) -> Path:
    return albums_to_serve.photographs(tmp_path_factory.mktemp("private"), encoder)


@pytest.fixture(scope="module")
def served(folder: Path, encoder: DualEncoder, vision_language_model: VisionLanguageModel) -> Iterator[Running]:
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}, [folder]) as running:
        yield running


@pytest.fixture(scope="module")
def album(folder: Path, encoder: DualEncoder) -> Iterator[Album]:
    with Album.open(folder, create_new=False) as album:
        album.use_encoder(encoder)
        yield album


def get(served: Running, path: str = "", **headers: str) -> Any:
    answer = served.ask("GET", f"/v1/albums/holiday{path}", headers=headers)
    assert answer.status == 200, answer.data
    return answer.json


def test_albums_are_listed_by_name_without_paths(served: Running, folder: Path) -> None:
    answer = served.ask("GET", "/v1/albums")
    assert answer.json == {
        "object": "list",
        "data": [{"id": "holiday", "object": "album", "pictures": 24}],
        "read_only": False,
    }
    assert served.ask("GET", "/v1/albums/nothing").code == "album_not_found"
    facets = get(served)
    assert facets["pictures"] == 24 and facets["captions"] == 3
    assert facets["cameras"] == [["Canon", 4], ["Leica", 4], ["Nikon", 4]]
    for path in ("", "/ids", "/pictures?ids=1,2,3", "/pictures/1"):
        assert str(folder.parent).encode() not in served.ask("GET", f"/v1/albums/holiday{path}").data


def test_ids_and_pictures_match_the_library(served: Running, album: Album) -> None:
    assert get(served, "/ids")["ids"] == album.contents()
    where = quote("camera:canon date>=2021")
    assert get(served, f"/ids?where={where}&order=newest")["ids"] == album.contents("camera:canon date>=2021", "newest")
    bad = served.ask("GET", "/v1/albums/holiday/ids?where=colour:red")
    assert bad.status == 400 and "unknown field colour" in bad.json["error"]["message"]
    numbers = [*reversed(album.contents()), 999]
    rows = get(served, f"/pictures?ids={','.join(map(str, numbers))}")["data"]
    assert [row["id"] for row in rows] == numbers[:-1]
    known = album.get_pictures(numbers)
    assert [row["caption"] for row in rows] == [known[number].caption for number in numbers[:-1]]
    assert f"photos/{MARKUP}.jpg" in [row["name"] for row in rows]
    one = get(served, f"/pictures/{numbers[0]}")
    assert one["copies"] == [one["name"]] and one["bytes"] == known[numbers[0]].size
    assert served.ask("GET", "/v1/albums/holiday/pictures/999").code == "picture_not_found"


def test_search_results_match_the_library(served: Running, album: Album) -> None:
    number = album.contents()[3]
    for asked, expected in [
        ({"query": "red boat", "top": 5}, album.search("red boat", top=5)),
        ({"query": "a dog", "where": "camera:nikon", "top": 3}, album.search("a dog", where="camera:nikon", top=3)),
        ({"query": "a dog", "minus": "the sea"}, album.search("a dog", minus="the sea")),
        ({"image": data_address(picture())}, album.search(image=picture())),
    ]:
        answer = served.post("/v1/search", asked)
        assert answer.status == 200, answer.data
        rows = answer.json["data"]
        assert [row["id"] for row in rows] == [found.picture.content for found in expected]
        assert [row["score"] for row in rows] == pytest.approx([found.score for found in expected], abs=1e-5)
        assert [row["fits"] for row in rows] == [found.fits for found in expected]
    like = served.post("/v1/search", {"like": number, "top": 4, "album": "holiday"}).json["data"]
    expected = album.search(like=[number], top=5)
    assert expected[0].picture.content == number  # the query picture, which the server omits
    assert [row["id"] for row in like] == [found.picture.content for found in expected[1:]]
    assert served.post("/v1/search", {}).status == 400
    assert served.post("/v1/search", {"like": 999}).code == "picture_not_found"
    assert served.post("/v1/search", {"query": "a", "album": "other"}).code == "album_not_found"


def test_pictures_are_reencoded_at_a_reduced_size(served: Running, album: Album) -> None:
    number = next(
        content for content, known in album.get_pictures(album.contents()).items() if "picture 02" in known.path
    )
    path = f"/v1/albums/holiday/pictures/{number}"
    for kind in ("thumbnail", "view"):
        answer = served.ask("GET", f"{path}/{kind}")
        assert answer.status == 200 and answer.headers["content-type"] == "image/jpeg"
        image = Image.open(BytesIO(answer.data))
        assert image.size == (160, 120) and not image.getexif() and "xmp" not in image.info
        again = served.ask("GET", f"{path}/{kind}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status == 304 and again.data == b""
        assert served.ask("GET", f"/v1/albums/holiday/pictures/999/{kind}").status == 404


def test_an_album_picture_can_be_used_in_a_chat(
    served: Running, album: Album, vision_language_model: VisionLanguageModel, encoder: DualEncoder
) -> None:
    number = album.contents()[5]
    path = album.get_pictures([number])[number].path
    address = f"album:holiday/{number}"
    assert served.post("/v1/caption", {"image": address}).json["caption"] == vision_language_model.caption(path)
    labels = served.post("/v1/classify", {"image": address, "labels": ["a dog", "a cat"]}).json["labels"]
    assert [row["label"] for row in labels] == [label for label, _ in encoder.classify(path, ["a dog", "a cat"])]
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "what is this ?"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 8}
    answer = served.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    assert answer == vision_language_model.chat(path, max_new_tokens=8).ask("what is this ?").strip()


def poll(served: Running, method: str, path: str, body: Any = None) -> Any:
    """Repeat the request while the server answers 202, and return the result."""
    for _ in range(60):
        answer = served.ask(method, f"/v1/albums/holiday{path}", body)
        assert answer.status in (200, 202), answer.data
        if answer.status == 200:
            return answer.json
        assert answer.headers["retry-after"] == "1"
    raise TimeoutError(path)


def test_clusters_match_the_library(served: Running, album: Album) -> None:
    answer = poll(served, "POST", "/groups", {"clusters": 3, "keywords": ["dogs", "boats", "food"]})
    expected = album.clusters(3, keywords=["dogs", "boats", "food"])
    assert [group["name"] for group in answer["data"]] == [group.name for group in expected]
    assert [group["ids"] for group in answer["data"]] == [[one.content for one in group.pictures] for group in expected]
    assert sorted(number for group in answer["data"] for number in group["ids"]) == sorted(album.contents())
    few = poll(served, "POST", "/groups", {"clusters": 2, "where": "camera:canon"})["data"]
    assert sum(len(group["ids"]) for group in few) == 4
    refused = served.ask("POST", "/v1/albums/holiday/groups", {"clusters": 30})
    assert refused.status == 400 and "choose 1 to 24" in refused.json["error"]["message"]


def test_the_map_matches_the_library(served: Running, album: Album) -> None:
    answer = poll(served, "GET", "/map")
    points = album.map()
    assert answer["ids"] == [point.picture.content for point in points]
    assert answer["x"] == pytest.approx([point.x for point in points], abs=1e-3)
    assert answer["y"] == pytest.approx([point.y for point in points], abs=1e-3)


def test_duplicates_match_the_library(served: Running, album: Album, folder: Path) -> None:
    answer = poll(served, "GET", "/duplicates?distance=0.3")
    expected = album.duplicates(distance=0.3)
    assert [group["distance"] for group in answer["data"]] == [group.distance for group in expected]
    found = [[Path(row["name"]).name for row in group["pictures"]] for group in answer["data"]]
    assert found == [[Path(path).name for path in group.paths] for group in expected]
    assert str(folder.parent) not in str(answer)


def fresh(folder: Path, encoder: DualEncoder, **settings: Any) -> Any:
    album_folder = albums_to_serve.photographs(folder, encoder, 8)
    return serving.running({"tiny": encoder}, {}, [album_folder], **settings)


def test_captions_and_keywords_are_saved_in_the_album(tmp_path: Path, encoder: DualEncoder) -> None:
    with fresh(tmp_path, encoder) as served:
        number = get(served, "/ids")["ids"][3]
        path = f"/v1/albums/holiday/pictures/{number}"
        before = {file: file.read_bytes() for file in (tmp_path / "photos").iterdir()}
        answer = served.ask("PUT", path, {"caption": f"a {MARKUP} boat", "tags": ["one", "two"]})
        assert answer.status == 200 and answer.json["caption"] == f"a {MARKUP} boat"
        assert answer.json["own_tags"] == ["one", "two"]
        served.ask("PUT", path, {"tags": ["three"]})
        now = get(served, f"/pictures/{number}")
        assert now["caption"] == f"a {MARKUP} boat" and now["tags"] == ["three"]
        assert get(served, "/ids?where=tag:three")["ids"] == [number]
        assert served.post("/v1/search", {"query": "boat", "top": 1}).json["data"][0]["named"]
        assert served.ask("PUT", path, {"caption": ""}).json["caption"] is None
        assert before == {file: file.read_bytes() for file in (tmp_path / "photos").iterdir()}


def test_a_caption_is_written_to_the_file_on_request(tmp_path: Path, encoder: DualEncoder) -> None:
    with fresh(tmp_path, encoder) as served:
        rows = get(served, f"/pictures?ids={','.join(map(str, get(served, '/ids')['ids']))}")["data"]
        row = next(row for row in rows if row["name"].endswith("picture 01.jpg"))
        path = f"/v1/albums/holiday/pictures/{row['id']}"
        others = {file: file.read_bytes() for file in (tmp_path / "photos").iterdir() if file.name != "picture 01.jpg"}
        assert served.ask("PUT", path, {"into_file": True}).status == 400
        answer = served.ask("PUT", path, {"caption": "into the file", "into_file": True})
        assert answer.status == 200, answer.data
        assert read_caption(tmp_path / "photos" / "picture 01.jpg") == "into the file"
        assert others == {
            file: file.read_bytes() for file in (tmp_path / "photos").iterdir() if file.name != "picture 01.jpg"
        }
        assert get(served, f"/pictures/{row['id']}")["tags"] == ["boat", "sea"]
        with Album.open(tmp_path / "holiday") as album:
            assert album.index(tmp_path / "photos", model=encoder).unchanged == 8
        file = tmp_path / "photos" / "picture 01.jpg"
        Image.new("RGB", (40, 40)).save(file)
        digest = hashlib.sha256(file.read_bytes()).digest()
        refused = served.ask("PUT", path, {"caption": "no", "into_file": True})
        assert refused.status == 400 and "has changed since" in refused.json["error"]["message"]
        assert str(tmp_path).encode() not in refused.data
        assert hashlib.sha256(file.read_bytes()).digest() == digest
        assert get(served, f"/pictures/{row['id']}")["caption"] == "into the file"


def test_a_read_only_server_writes_nothing(tmp_path: Path, encoder: DualEncoder) -> None:
    with fresh(tmp_path, encoder, read_only=True) as served:
        number = get(served, "/ids")["ids"][0]
        answer = served.ask("PUT", f"/v1/albums/holiday/pictures/{number}", {"caption": "no", "into_file": True})
        assert answer.status == 403 and answer.code == "read_only"
        assert get(served, f"/pictures/{number}")["caption"] is None
        assert served.ask("GET", "/v1/albums").json["read_only"] is True


def test_a_missing_file_is_reported_without_its_path(tmp_path: Path, encoder: DualEncoder) -> None:
    with fresh(tmp_path, encoder) as served:
        number = get(served, "/ids")["ids"][0]
        for file in (tmp_path / "photos").iterdir():
            file.unlink()
        for kind in ("thumbnail", "view"):
            answer = served.ask("GET", f"/v1/albums/holiday/pictures/{number}/{kind}")
            assert answer.status == 400 and "its file is gone" in answer.json["error"]["message"]
            assert str(tmp_path).encode() not in answer.data
        answer = served.post("/v1/classify", {"image": f"album:holiday/{number}", "labels": ["a"]})
        assert answer.status == 400 and str(tmp_path).encode() not in answer.data


def test_pictures_indexed_while_the_album_is_served_are_found(tmp_path: Path, encoder: DualEncoder) -> None:
    Album.open(tmp_path / "holiday").close()
    with serving.running({"tiny": encoder}, {}, [tmp_path / "holiday"]) as served:
        assert get(served)["pictures"] == 0
        assert served.post("/v1/search", {"query": "a dog"}).code == "album_unusable"
        albums_to_serve.photographs(tmp_path, encoder, 8)
        assert len(get(served, "/ids")["ids"]) == 8
        assert served.post("/v1/search", {"query": "a dog"}).status == 200


def test_an_album_that_cannot_be_served_fails_at_startup(tmp_path: Path, encoder: DualEncoder) -> None:
    def failure(*albums: Path) -> Exception | None:
        service = Service(ServerSettings(port=0), lambda: LoadedModels({"tiny": encoder}), albums)
        service.start().join()
        return service.failure

    assert isinstance(failure(tmp_path / "nothing"), AlbumNotFound)
    for name in ("a", "b"):
        Album.open(tmp_path / name / "holiday").close()
    assert isinstance(failure(tmp_path / "a" / "holiday", tmp_path / "b" / "holiday"), InvalidSetting)


def test_a_slow_job_runs_once(encoder: DualEncoder) -> None:
    import asyncio

    started: list[int] = []
    released = threading.Event()

    def work() -> str:
        started.append(1)
        released.wait(60)
        return "made"

    async def ask() -> None:
        jobs = BackgroundJobs()
        for version in range(3):  # the input changes in the meantime
            with pytest.raises(TimeoutError):
                await jobs.get("key", version, work, 0.05)
        released.set()
        assert await jobs.get("key", 3, work, 5) == "made"
        assert started == [1]
        assert await jobs.get("key", 0, work, 5) == "made"  # cached: computed from the same input
        assert started == [1]
        assert await jobs.get("key", 4, work, 5) == "made"
        assert started == [1, 1]
        with pytest.raises(ValueError, match="wrong"):
            await jobs.get("other", 0, lambda: (_ for _ in ()).throw(ValueError("wrong")), 5)
        assert await jobs.get("other", 0, lambda: "right", 5) == "right"

    with ThreadPoolExecutor(1) as aside:  # the browser tests have an event loop in this thread
        aside.submit(asyncio.run, ask()).result()


def test_concurrent_writes_to_files_are_serialized(tmp_path: Path, encoder: DualEncoder) -> None:
    with fresh(tmp_path, encoder) as served, ThreadPoolExecutor(4) as pool:
        numbers = get(served, "/ids")["ids"][:4]

        def save(place: int) -> int:
            body = {"caption": f"number {place}", "into_file": True}
            path = f"/v1/albums/holiday/pictures/{numbers[place % 4]}"
            return int(served.ask("PUT", path, body).status)

        assert set(pool.map(save, range(16))) == {200}


def test_a_replaced_album_is_refused_instead_of_written_to(tmp_path: Path, encoder: DualEncoder) -> None:
    with fresh(tmp_path, encoder) as served:
        number = get(served, "/ids")["ids"][0]
        path = f"/v1/albums/holiday/pictures/{number}"
        assert served.ask("PUT", path, {"caption": "before"}).status == 200
        shutil.copytree(tmp_path / "holiday", tmp_path / "backup")
        shutil.rmtree(tmp_path / "holiday")
        assert served.ask("PUT", path, {"caption": "lost"}).code == "album_replaced"
        shutil.copytree(tmp_path / "backup", tmp_path / "holiday")
        assert served.ask("PUT", path, {"caption": "lost"}).code == "album_replaced"
        assert served.ask("GET", f"{path}/thumbnail").code == "album_replaced"
