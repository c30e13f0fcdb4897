"""Browsing, paging, similar pictures, clusters, the map and outliers, as requested by a page that shows an album."""

import io
from pathlib import Path

import numpy as np
import pytest
from old_album import write_old_album
from PIL import Image
from small_album import draw, tiny_encoder

from beholder.album import map_layout
from beholder.album.album import Album
from beholder.album.map_layout import compute_layout, interpolate_layout
from beholder.album.outliers import knn_distance
from beholder.album.store.schema import FILE
from beholder.errors import InvalidSetting
from beholder.tasks.dual_encoder import DualEncoder

COUNT = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        exif = Image.Exif()
        exif[0x8769] = {0x9003: f"2024:01:{number + 1:02} 12:00:00"}
        draw(tmp_path / "p" / f"{number:02}.jpg", number, exif=exif if number % 3 else None)
    return tmp_path / "p"


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


@pytest.fixture
def album(tmp_path: Path, folder: Path, encoder: DualEncoder) -> Album:
    album = Album.open(tmp_path / "album")
    album.index(folder, model=encoder)
    return album


def stems(pictures) -> list[str]:
    return [Path(one.path).stem for one in pictures]


def test_search_pages_add_up_to_the_full_result(album: Album) -> None:
    newest = [Path(album.get_pictures([one])[one].path).stem for one in album.contents(order="newest")]
    assert newest[:3] == ["29", "28", "26"] and newest[20:] == [f"{number:02}" for number in range(0, COUNT, 3)]
    whole = [one.picture.content for one in album.search("a dog", top=COUNT)]
    pieces = [one.picture.content for start in range(0, COUNT, 7) for one in album.search("a dog", top=7, skip=start)]
    assert pieces == whole and len(set(whole)) == COUNT
    with pytest.raises(InvalidSetting):
        album.search("a dog", skip=-1)


def test_an_id_survives_a_move_and_is_never_reused(album: Album, folder: Path, encoder: DualEncoder) -> None:
    number = next(album.pictures("name:07")).content
    (folder / "07.jpg").rename(folder / "moved.jpg")
    last = max(one.content for one in album.pictures())
    album.index(folder, model=encoder)
    moved = album.get_pictures([number]).get(number)
    assert moved is not None and Path(moved.path).name == "moved.jpg"
    data = album.thumbnail(number, 20)
    assert data is not None and max(Image.open(io.BytesIO(data)).size) == 20
    (folder / "moved.jpg").unlink()
    assert album.thumbnail(number) is None
    draw(folder / "new.jpg", 1000)
    album.index(folder, model=encoder)
    assert not album.get_pictures([number]) and next(album.pictures("name:new")).content > last


def test_similar_pictures_are_the_nearest_neighbors_without_the_query(album: Album) -> None:
    pictures, vectors = album.embeddings()
    cosines = vectors @ vectors[4]
    expected = [pictures[row].content for row in np.argsort(-cosines) if row != 4]
    found = [one.picture.content for one in album.similar(pictures[4].content, top=5)]
    assert found == expected[:5]
    more = album.similar(pictures[4].content, top=5, skip=5, where="-name:04")
    assert [one.picture.content for one in more] == expected[5:10]
    with pytest.raises(InvalidSetting, match="no picture 999"):
        album.similar(999)


def test_each_picture_and_each_keyword_belongs_to_one_cluster(album: Album) -> None:
    keywords = ["red", "green", "blue", "grey", "dark"]
    groups = album.clusters(3, keywords=keywords)
    assert [group.number for group in groups] == [0, 1, 2]
    assert sorted(stems(one for group in groups for one in group.pictures)) == stems(album.pictures())
    assert sorted(word for group in groups for word in group.keywords) == sorted(keywords)
    pictures, vectors = album.embeddings()
    row = {picture.content: vectors[place] for place, picture in enumerate(pictures)}
    for group in groups:
        inside = np.stack([row[one.content] for one in group.pictures])
        typical = inside @ inside.mean(axis=0)
        assert (np.diff(typical) <= 1e-6).all()
    assert album.clusters(where="camera:none") == []


def test_map_positions_are_stable_and_new_pictures_land_near_similar_ones(
    album: Album, folder: Path, encoder: DualEncoder
) -> None:
    first = {Path(point.picture.path).stem: (point.x, point.y) for point in album.map()}
    assert len(first) == COUNT and np.abs(np.array(list(first.values()))).max() <= 1
    (folder / "copy.jpg").write_bytes((folder / "05.jpg").read_bytes() + b"\0")  # different bytes, same pixels
    album.index(folder, model=encoder)
    with Album.open(album.folder) as again:
        second = {Path(point.picture.path).stem: (point.x, point.y) for point in again.map()}
        some = again.map("name:05")
    assert {name: second[name] for name in first} == first
    assert np.linalg.norm(np.subtract(second["copy"], first["05"])) < 0.15
    assert [(point.x, point.y) for point in some] == [first["05"]]


def grouped(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, count)
    vectors = np.eye(16)[kinds] + 0.1 * random.normal(size=(count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), kinds


@pytest.mark.slow
@pytest.mark.parametrize("landmarks", [1000, 60], ids=["all", "landmarks"])
def test_neighbors_on_the_map_are_of_one_kind(landmarks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_layout, "LANDMARKS", landmarks)
    vectors, kinds = grouped(200)
    places = compute_layout(vectors)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (kinds[apart.argmin(axis=1)] == kinds).mean() > 0.95
    assert (compute_layout(vectors) == places).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_few_pictures_can_be_mapped(count: int) -> None:
    vectors = grouped(count)[0] if count else np.zeros((0, 16), np.float32)
    places = compute_layout(vectors)
    assert places.shape == (count, 2) and np.isfinite(places).all()
    assert interpolate_layout(vectors[:0], vectors, places).shape == (0, 2)


def test_an_outlier_ranks_first(album: Album) -> None:
    vectors, _ = grouped(100)
    vectors[42] = -vectors[42]
    assert knn_distance(vectors).argmax() == 42
    found = album.outliers(top=3)
    assert len(found) == 3 and [one.distance for one in found] == sorted((one.distance for one in found), reverse=True)
    assert album.outliers("name:03") == []


def test_a_version_1_album_is_migrated_without_loss(album: Album, encoder: DualEncoder) -> None:
    words = [one.picture.path for one in album.search("a dog", top=5)]
    paths = [one.path for one in album.pictures()]
    album.close()
    old = album.folder.with_name("old")
    write_old_album(old, 1, encoder, [Path(path) for path in paths], {})
    with Album.open(old, create_new=False) as again:
        found = [one.picture.path for one in again.search("a dog", top=5, model=encoder)]
        assert found == words and len(again.map()) == COUNT and (old / FILE).is_file()
