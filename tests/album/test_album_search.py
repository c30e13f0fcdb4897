"""Search results compared with a plain computation."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from old_album import write_old_album
from small_album import draw

from beholder.album import search as search_module
from beholder.album import vector_index as vector_index_module
from beholder.album.album import Album
from beholder.album.recall import exact_search, recall_at_k
from beholder.album.store.models import add_model
from beholder.album.store.vectors import read_vectors
from beholder.album.vector_index import VectorIndex
from beholder.errors import AlbumError, InvalidSetting, WriteFailed
from beholder.files import SCRATCH
from beholder.tasks.dual_encoder import DualEncoder

COUNT = 60


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(tiny_model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        draw(tmp_path / "p" / f"{number:02}.png", number)
    return tmp_path / "p"


@pytest.fixture
def album(tmp_path: Path, folder: Path, tiny_model: Path) -> Album:
    album = Album.open(tmp_path / "album")
    album.index(folder, model=str(tiny_model))
    return album


def names(found: list) -> list[str]:
    return [Path(one.picture.path).name for one in found]


def test_text_search_equals_a_plain_dot_product(album: Album, encoder: DualEncoder) -> None:
    pictures, vectors = album.embeddings()
    cosines = vectors @ encoder.embed_texts("a dog")[0]
    found = album.search("a dog", top=7)
    expected = sorted(cosines, reverse=True)[:7]
    assert [one.cosine for one in found] == pytest.approx(expected, abs=1e-3)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    match = encoder.match(vectors, encoder.embed_texts("a dog"))[:, 0]
    place = {Path(picture.path).name: row for row, picture in enumerate(pictures)}
    assert [one.match for one in found] == pytest.approx([match[place[name]] for name in names(found)], abs=1e-3)


def test_image_text_and_negative_queries_are_combined(album: Album, encoder: DualEncoder, folder: Path) -> None:
    _, vectors = album.embeddings()
    words = encoder.embed_texts(["at night", "people"])
    query = (words[0] + encoder.embed_images([folder / "03.png"])[0]) / 2 - words[1]
    query /= np.linalg.norm(query)
    found = album.search("at night", image=folder / "03.png", minus="people", top=5)
    assert [one.cosine for one in found] == pytest.approx(sorted(vectors @ query, reverse=True)[:5], abs=2e-3)


def test_searching_by_an_indexed_picture_runs_no_model(
    album: Album, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DualEncoder, "stream_images", lambda *_, **__: pytest.fail("the network was asked"))
    assert names(album.search(image=folder / "07.png", top=1)) == ["07.png"]
    assert names(album.search(image=(folder / "07.png").read_bytes(), top=1)) == ["07.png"]


def test_an_empty_query_or_one_that_cancels_out_is_an_error(album: Album) -> None:
    for call in ({"words": "a dog", "minus": "a dog"}, {"words": " "}, {"minus": "a dog"}, {"words": "x", "top": 0}):
        with pytest.raises(InvalidSetting):
            album.search(**call)


def test_a_filter_preserves_the_ranking(album: Album) -> None:
    everything = names(album.search("a dog", top=COUNT))
    some = names(album.search("a dog", top=COUNT, where="name:1"))
    assert some == [name for name in everything if "1" in name] and 5 < len(some) < COUNT
    assert album.search("a dog", where="camera:none") == []


def test_query_words_in_the_caption_or_name_raise_the_rank(album: Album, folder: Path) -> None:
    last = names(album.search("zebra crossing", top=COUNT))[-1]
    album.describe(folder / last, caption="A zebra crossing, seen from above")
    found = album.search("the zebra crossing", top=COUNT)
    assert names(found).index(last) < COUNT // 2
    assert next(one for one in found if names([one]) == [last]).named
    assert names([one for one in album.search("33", top=3) if one.named]) == ["33.png"]
    assert album.search('"; DROP TABLE words; -- NEAR( * ^', top=2)


def test_only_scores_well_above_the_album_match(album: Album, encoder: DualEncoder) -> None:
    """Replace the embeddings: 59 similar ones far from the query text, and one close to it."""
    word = encoder.embed_texts("a dog")[0]
    random = np.random.default_rng(0)
    noise = random.normal(size=(COUNT, len(word)))
    noise -= (noise @ word)[:, None] * word
    noise += 0.05 * random.normal(size=COUNT)[:, None] * word
    put(album, noise)
    assert not any(one.fits for one in album.search("a dog", top=3))
    noise[17] = word * 10
    put(album, noise)
    fits = [one.fits for one in album.search("a dog", top=3)]
    assert not fits[1] and fits[0] == (album.search("a dog")[0].match >= search_module.MATCH_THRESHOLD)
    like = album.search(image=list(album.pictures())[17].path, top=2)
    assert [one.fits for one in like] == [True, False]


def put(album: Album, vectors: np.ndarray) -> None:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    with album.store.transaction():
        for row, vector in enumerate(vectors):
            album.store.connection.execute(
                "UPDATE vector SET data = ? WHERE id = ?", (vector.astype(np.float16).tobytes(), row + 1)
            )
    for file in album.folder.glob("search-*"):
        file.unlink()
    album._indexes.clear()


def test_a_missing_damaged_or_foreign_index_file_is_rebuilt(album: Album, tmp_path: Path) -> None:
    expected = names(album.search("a dog"))
    (data,) = album.folder.glob("search-*.faiss")
    (description,) = album.folder.glob("search-*.json")
    whole, described = data.read_bytes(), json.loads(description.read_text())
    for harm in (
        lambda: data.unlink(),
        lambda: description.unlink(),
        lambda: data.write_bytes(whole[:-100]),
        lambda: data.write_bytes(whole[:200] + b"\xff" * 64 + whole[264:]),
        lambda: description.write_text("not JSON"),
        lambda: description.write_text(json.dumps(described | {"fingerprint": "another"})),
        lambda: description.write_text(json.dumps(described | {"last": 10**9})),
        lambda: description.write_text(json.dumps(described | {"file": "../../etc/passwd"})),
    ):
        harm()
        with Album.open(album.folder) as again:
            assert names(again.search("a dog")) == expected
            assert all(ok for _, ok, _ in again.check())
        data.write_bytes(whole)
        description.write_text(json.dumps(described))


def test_a_stale_index_file_finds_new_pictures_and_skips_removed_ones(
    album: Album, folder: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    album.search("a dog")
    monkeypatch.setattr(VectorIndex, "update", lambda *_: None)
    draw(folder / "new.png", 1000)
    gone = names(album.search("a dog", top=1))[0]
    (folder / gone).unlink()
    with Album.open(album.folder) as other:
        other.index(folder, model=encoder)
    assert names(album.search(image=folder / "new.png", top=1)) == ["new.png"]
    found = album.search("a dog", top=COUNT)
    assert gone not in names(found) and len(found) == COUNT


def test_an_album_in_a_read_only_folder_is_searched_in_memory(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = names(album.search("a dog"))
    for file in album.folder.glob("search-*"):
        file.unlink()
    monkeypatch.setattr(vector_index_module, "write_index", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    with Album.open(album.folder) as again:
        assert names(again.search("a dog")) == expected


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Return a function that copies an album to a read-only file system and returns its folder there."""
    mounted = tmp_path / "disc"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")

    def copy(album: Path) -> Path:
        shutil.copytree(album, mounted / "album")
        subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
        return mounted / "album"

    try:
        yield copy
    finally:
        subprocess.run(["umount", "-l", mounted], check=False)


@pytest.mark.parametrize("state", ["closed", "log", "older schema", "no index file"])
def test_an_album_on_read_only_media_is_searched(
    state: str, album: Album, folder: Path, read_only: Callable[[Path], Path], encoder: DualEncoder
) -> None:
    album.describe(folder / "05.png", caption="a red boat")
    expected = names(album.search("a dog", top=5))
    if state == "no index file":
        for file in album.folder.glob("search-*"):
            file.unlink()
    if state == "older schema":
        write_old_album(album.folder.parent / "old", 2, encoder, sorted(folder.iterdir()), {"05.png": "a red boat"})
    if state != "log":
        album.close()
    place = read_only(album.folder.parent / "old" if state == "older schema" else album.folder)
    with Album.open(place, create_new=False) as opened:
        assert names(opened.search("a dog", top=5, model=encoder)) == expected
        assert [one.path for one in opened.pictures("caption:boat")] == [str(folder / "05.png")]
        assert opened.duplicates(distance=0, model=encoder) == [] and len(opened.map(model=encoder)) == COUNT
        with pytest.raises(WriteFailed, match="read-only"):
            opened.describe(folder / "05.png", caption="x")
    with pytest.raises(WriteFailed), Album.open(place) as opened:
        opened.index(folder, model=encoder)


@pytest.fixture
def large(album: Album, monkeypatch: pytest.MonkeyPatch) -> tuple[VectorIndex, np.ndarray, np.ndarray]:
    """An inverted file over 6,000 embeddings of 32 dimensions in 80 clusters; with it, ids and cluster labels."""
    monkeypatch.setattr(vector_index_module, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(vector_index_module, "READ_BATCH", 700)
    random = np.random.default_rng(0)
    kinds = random.integers(0, 80, 6000)
    vectors = random.normal(size=(80, 32))[kinds] + 0.7 * random.normal(size=(6000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    model = add_model(album.store, "f" * 64, "made", 32, None, None)
    with album.store.transaction():
        for number, vector in enumerate(vectors):
            execute = album.store.connection.execute
            sha = number.to_bytes(32, "big")
            execute("INSERT INTO content (sha256, width, height, format) VALUES (?, 1, 1, 'PNG')", (sha,))
            row = (model.id, album.store.connection.last_insert_rowid(), vector.tobytes())
            execute("INSERT INTO vector (model, content, data) VALUES (?, ?, ?)", row)
    near = VectorIndex(album.store, model)
    near.update(0.95)
    return VectorIndex(album.store, model), read_vectors(album.store, model)[0], kinds


def test_a_large_album_reaches_the_requested_recall(large: tuple[VectorIndex, np.ndarray, np.ndarray]) -> None:
    near, ids, _ = large
    assert near.measure_recall() >= 0.95
    assert near.description is not None and 0 < near.description.probes < near.description.cells == len(ids) // 250
    file, probes = near.description.file, near.description.probes
    near.update()  # nothing new: no rebuild
    near.update(0.999)
    assert near.description.file == file and near.description.probes > probes and near.measure_recall() >= 0.999
    again = VectorIndex(near.store, near.model)
    again.update()  # the requested recall persists
    assert (
        again.description is not None
        and again.description.aim == 0.999
        and again.description.probes == near.description.probes
    )


@pytest.mark.parametrize("which", ["half", "a twentieth", "twelve", "other kinds", "one far kind"])
def test_the_recall_holds_under_a_filter(large: tuple[VectorIndex, np.ndarray, np.ndarray], which: str) -> None:
    """Random filters, and filters that only match embeddings far from the query."""
    near, ids, kinds = large
    near.refresh()
    halves = read_vectors(near.store, near.model)[1]
    random = np.random.default_rng(1)
    found, truth = [], []
    for query in random.choice(len(ids), 60, replace=False):
        share = {"half": 0.5, "a twentieth": 0.05, "twelve": 0.002}.get(which)
        if share is not None:
            subset = np.sort(random.choice(len(ids), int(share * len(ids)), replace=False))
        elif which == "other kinds":
            subset = np.flatnonzero(np.isin(kinds, (kinds[query] + 1 + np.arange(20)) % 80))
        else:
            subset = np.flatnonzero(kinds == (kinds[query] + 40) % 80)
        vector = halves[query].astype(np.float32)
        truth.append(exact_search([(ids[subset], halves[subset])], vector[None])[0])
        found.append(near.search(vector, 10, allowed=ids[subset])[0])
        assert len(found[-1]) == 10 and np.isin(found[-1], ids[subset]).all()
    assert recall_at_k(found, np.stack(truth)) >= 0.95
    assert len(near.search(vector, 10, allowed=ids[:0])[0]) == 0


def test_exact_search_over_chunks_equals_a_plain_dot_product(large: tuple[VectorIndex, np.ndarray, np.ndarray]) -> None:
    near, ids, _ = large
    halves = read_vectors(near.store, near.model)[1]
    queries = np.random.default_rng(2).normal(size=(5, 32)).astype(np.float32)
    best = ids[np.argsort(-(queries @ halves.astype(np.float32).T), axis=1, kind="stable")[:, :10]]
    assert (exact_search(near.batches(), queries) == best).all()
    assert exact_search([(ids[:3], halves[:3])], queries).shape == (5, 3)


@pytest.mark.parametrize("inverted", [False, True], ids=["exact", "inverted file"])
@pytest.mark.parametrize("nth", range(6))
def test_search_works_after_any_failed_step_of_writing_the_index(
    large: tuple[VectorIndex, np.ndarray, np.ndarray], inverted: bool, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fsync and rename fails in turn, as if the process had been killed there."""
    near, ids, _ = large
    before = {path.name for path in near.store.folder.iterdir()}
    query = read_vectors(near.store, near.model)[1][17].astype(np.float32)
    steps = iter(range(100))

    def failing(step):
        def called(*arguments: object) -> object:
            if next(steps) == nth:
                raise OSError(28, "No space left on device")
            return step(*arguments)

        return called

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    near.build(inverted=inverted)
    monkeypatch.undo()
    assert next(steps) > nth, "the step was not reached"
    for one in (near, VectorIndex(near.store, near.model)):
        one.refresh()
        assert one.search(query, 1)[0][0] == ids[17]
    assert not [path.name for path in near.store.folder.iterdir() if path.name.startswith(SCRATCH)]
    described = {path.name for path in near.store.folder.glob("search-*.json")}
    assert described == {name for name in before if name.startswith("search-") and name.endswith(".json")}


def test_embeddings_of_different_models_are_never_compared(
    album: Album, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(AlbumError, match="no embeddings of"):
        album.search("a dog", model="some-other-model")
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    album.index(folder, model=str(copy))
    assert album.search("a dog", top=1)
    from beholder.weights.native import load_dual_encoder, save_dual_encoder

    changed = load_dual_encoder(copy)
    changed.network.text.embedding.weight.data.mul_(1.5)
    save_dual_encoder(changed, copy)
    with Album.open(album.folder) as again, pytest.raises(AlbumError, match="has changed"):
        again.search("a dog")


def test_searching_an_empty_album_says_it_is_empty(tmp_path: Path) -> None:
    with pytest.raises(AlbumError, match="empty"):
        Album.open(tmp_path / "empty").search("a dog")
