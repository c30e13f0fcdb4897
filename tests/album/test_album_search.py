"""What a search finds, beside what a plain computation finds."""

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


def test_words_find_what_a_plain_product_finds(album: Album, encoder: DualEncoder) -> None:
    pictures, vectors = album.embeddings()
    cosines = vectors @ encoder.embed_texts("a dog")[0]
    found = album.search("a dog", top=7)
    expected = sorted(cosines, reverse=True)[:7]
    assert [one.cosine for one in found] == pytest.approx(expected, abs=1e-3)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    match = encoder.match(vectors, encoder.embed_texts("a dog"))[:, 0]
    place = {Path(picture.path).name: row for row, picture in enumerate(pictures)}
    assert [one.match for one in found] == pytest.approx([match[place[name]] for name in names(found)], abs=1e-3)


def test_a_picture_words_and_what_is_subtracted_add_up(album: Album, encoder: DualEncoder, folder: Path) -> None:
    _, vectors = album.embeddings()
    words = encoder.embed_texts(["at night", "people"])
    query = (words[0] + encoder.embed_images([folder / "03.png"])[0]) / 2 - words[1]
    query /= np.linalg.norm(query)
    found = album.search("at night", image=folder / "03.png", minus="people", top=5)
    assert [one.cosine for one in found] == pytest.approx(sorted(vectors @ query, reverse=True)[:5], abs=2e-3)


def test_a_picture_of_the_album_needs_no_network(album: Album, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DualEncoder, "stream_images", lambda *_, **__: pytest.fail("the network was asked"))
    assert names(album.search(image=folder / "07.png", top=1)) == ["07.png"]
    assert names(album.search(image=(folder / "07.png").read_bytes(), top=1)) == ["07.png"]


def test_what_cancels_out_and_what_is_nothing_is_an_error(album: Album) -> None:
    for call in ({"words": "a dog", "minus": "a dog"}, {"words": " "}, {"minus": "a dog"}, {"words": "x", "top": 0}):
        with pytest.raises(InvalidSetting):
            album.search(**call)


def test_a_filter_leaves_the_order_as_it_is(album: Album) -> None:
    everything = names(album.search("a dog", top=COUNT))
    some = names(album.search("a dog", top=COUNT, where="name:1"))
    assert some == [name for name in everything if "1" in name] and 5 < len(some) < COUNT
    assert album.search("a dog", where="camera:none") == []


def test_a_caption_and_a_name_that_hold_the_words_lift_a_picture(album: Album, folder: Path) -> None:
    last = names(album.search("zebra crossing", top=COUNT))[-1]
    album.describe(folder / last, caption="A zebra crossing, seen from above")
    found = album.search("the zebra crossing", top=COUNT)
    assert names(found).index(last) < COUNT // 2
    assert next(one for one in found if names([one]) == [last]).named
    assert names([one for one in album.search("33", top=3) if one.named]) == ["33.png"]
    assert album.search('"; DROP TABLE words; -- NEAR( * ^', top=2)


def test_only_what_stands_out_of_the_album_fits(album: Album, encoder: DualEncoder) -> None:
    """Vectors are put in the place of the random network's: 59 alike, far from the words, and one close to them."""
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


def test_an_index_file_that_is_lost_damaged_or_of_something_else_is_made_anew(album: Album, tmp_path: Path) -> None:
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


def test_a_stale_index_file_still_finds_what_came_and_passes_over_what_went(
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


def test_a_folder_that_can_not_be_written_searches_in_memory(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = names(album.search("a dog"))
    for file in album.folder.glob("search-*"):
        file.unlink()
    monkeypatch.setattr(vector_index_module, "write_index", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    with Album.open(album.folder) as again:
        assert names(again.search("a dog")) == expected


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Copies an album to a file system that is then read-only, and returns its folder there."""
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


@pytest.mark.parametrize("left", ["closed", "log", "older schema", "no index file"])
def test_an_album_on_read_only_media_is_searched(
    left: str, album: Album, folder: Path, read_only: Callable[[Path], Path], encoder: DualEncoder
) -> None:
    album.describe(folder / "05.png", caption="a red boat")
    expected = names(album.search("a dog", top=5))
    if left == "no index file":
        for file in album.folder.glob("search-*"):
            file.unlink()
    if left == "older schema":
        write_old_album(album.folder.parent / "old", 2, encoder, sorted(folder.iterdir()), {"05.png": "a red boat"})
    if left != "log":
        album.close()
    place = read_only(album.folder.parent / "old" if left == "older schema" else album.folder)
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
    """An inverted file over 6,000 vectors of 32 dimensions in 80 groups of one kind each; ids and kinds."""
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


def test_a_large_album_keeps_the_recall_that_was_asked_for(large: tuple[VectorIndex, np.ndarray, np.ndarray]) -> None:
    near, ids, _ = large
    assert near.measure_recall() >= 0.95
    assert near.description is not None and 0 < near.description.probes < near.description.cells == len(ids) // 250
    file, probes = near.description.file, near.description.probes
    near.update()  # nothing new: nothing is made
    near.update(0.999)
    assert near.description.file == file and near.description.probes > probes and near.measure_recall() >= 0.999
    again = VectorIndex(near.store, near.model)
    again.update()  # what was asked for once holds on
    assert (
        again.description is not None
        and again.description.aim == 0.999
        and again.description.probes == near.description.probes
    )


@pytest.mark.parametrize("which", ["half", "a twentieth", "twelve", "other kinds", "one far kind"])
def test_under_a_filter_the_recall_is_kept_too(large: tuple[VectorIndex, np.ndarray, np.ndarray], which: str) -> None:
    """Filters at random, and such that what they let through lies far from what is looked for."""
    near, ids, kinds = large
    near.refresh()
    halves = read_vectors(near.store, near.model)[1]
    random = np.random.default_rng(1)
    found, truth = [], []
    for query in random.choice(len(ids), 60, replace=False):
        share = {"half": 0.5, "a twentieth": 0.05, "twelve": 0.002}.get(which)
        if share is not None:
            kept = np.sort(random.choice(len(ids), int(share * len(ids)), replace=False))
        elif which == "other kinds":
            kept = np.flatnonzero(np.isin(kinds, (kinds[query] + 1 + np.arange(20)) % 80))
        else:
            kept = np.flatnonzero(kinds == (kinds[query] + 40) % 80)
        vector = halves[query].astype(np.float32)
        truth.append(exact_search([(ids[kept], halves[kept])], vector[None])[0])
        found.append(near.search(vector, 10, allowed=ids[kept])[0])
        assert len(found[-1]) == 10 and np.isin(found[-1], ids[kept]).all()
    assert recall_at_k(found, np.stack(truth)) >= 0.95
    assert len(near.search(vector, 10, allowed=ids[:0])[0]) == 0


def test_exact_search_over_parts_is_a_plain_product(large: tuple[VectorIndex, np.ndarray, np.ndarray]) -> None:
    near, ids, _ = large
    halves = read_vectors(near.store, near.model)[1]
    queries = np.random.default_rng(2).normal(size=(5, 32)).astype(np.float32)
    best = ids[np.argsort(-(queries @ halves.astype(np.float32).T), axis=1, kind="stable")[:, :10]]
    assert (exact_search(near.batches(), queries) == best).all()
    assert exact_search([(ids[:3], halves[:3])], queries).shape == (5, 3)


@pytest.mark.parametrize("inverted", [False, True], ids=["exact", "inverted file"])
@pytest.mark.parametrize("nth", range(6))
def test_whichever_step_of_writing_an_index_fails_the_search_goes_on(
    large: tuple[VectorIndex, np.ndarray, np.ndarray], inverted: bool, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fsync and rename in turn; then as if the process had ended there."""
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


def test_vectors_of_one_model_are_never_compared_with_words_of_another(
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


def test_an_empty_album_says_so(tmp_path: Path) -> None:
    with pytest.raises(AlbumError, match="empty"):
        Album.open(tmp_path / "empty").search("a dog")
