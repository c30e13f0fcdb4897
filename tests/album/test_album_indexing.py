"""Indexing files that are added, changed, moved, damaged and removed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from PIL import Image
from small_album import assert_same, content, draw, tiny_encoder

import tiny_model
from beholder.album.album import HOLDER, Album
from beholder.album.store.vectors import read_vectors, vector_by_hash
from beholder.errors import AlbumBusy, AlbumDamaged, AlbumNotFound, InvalidSetting
from beholder.tasks.dual_encoder import DualEncoder


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["a.png", "b.jpg", "deep/c.png", "deep/er/d.webp"]):
        draw(tmp_path / "photographs" / name, number)
    return tmp_path / "photographs"


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return Album.open(tmp_path / "album")


def index_statuses(album: Album, *folders: Path, encoder: DualEncoder, **options: object) -> dict[str, str]:
    """Index the folders and return the status of each file by name."""
    rows: dict[str, str] = {}
    album.index(
        list(folders), model=encoder, on_file=lambda row: rows.update({Path(row.path).name: row.status}), **options
    )
    return rows


def test_pictures_are_added_once_and_then_unchanged(album: Album, folder: Path, encoder: DualEncoder) -> None:
    names = ["a.png", "b.jpg", "c.png", "d.webp"]
    assert index_statuses(album, folder, encoder=encoder) == dict.fromkeys(names, "added")
    before = content(album)
    assert index_statuses(album, folder, encoder=encoder) == dict.fromkeys(names, "unchanged")
    assert_same(content(album), before)
    direct = encoder.embed_images([folder / "a.png"])[0]
    kept = vector_by_hash(album.store, album.store.scalar("SELECT sha256 FROM content WHERE id = 1"), 1)
    np.testing.assert_allclose(kept, direct, atol=1e-3)


def test_nothing_is_embedded_twice(album: Album, folder: Path, encoder: DualEncoder, monkeypatch) -> None:
    index_statuses(album, folder, encoder=encoder)
    monkeypatch.setattr(DualEncoder, "stream_images", lambda *_, **__: pytest.fail("the network was asked"))
    (folder / "a.png").rename(folder / "deep" / "z.png")
    shutil.copy(folder / "b.jpg", folder / "copy.jpg")
    os.utime(folder / "deep" / "c.png", ns=(1, 1))
    rows = index_statuses(album, folder, encoder=encoder)
    assert rows == {
        "z.png": "moved",
        "copy.jpg": "added",
        "c.png": "unchanged",
        "b.jpg": "unchanged",
        "d.webp": "unchanged",
    }


def test_a_move_to_another_root_is_recognized_if_only_that_root_is_indexed(
    album: Album, folder: Path, encoder: DualEncoder, tmp_path: Path
) -> None:
    index_statuses(album, folder, encoder=encoder)
    (tmp_path / "elsewhere").mkdir()
    (folder / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    rows: list = []
    album.index(tmp_path / "elsewhere", model=encoder, on_file=rows.append)
    assert [(row.status, row.moved_from) for row in rows] == [("moved", str(folder / "a.png"))]
    assert len(album) == 4


def test_changed_and_removed_files_are_detected(album: Album, folder: Path, encoder: DualEncoder) -> None:
    index_statuses(album, folder, encoder=encoder)
    draw(folder / "a.png", 99)
    (folder / "b.jpg").unlink()
    rows = index_statuses(album, folder, encoder=encoder)
    assert rows == {"a.png": "changed", "b.jpg": "removed", "c.png": "unchanged", "d.webp": "unchanged"}
    assert len(album) == 3


def test_only_pictures_below_the_indexed_folder_are_removed(album: Album, folder: Path, encoder: DualEncoder) -> None:
    beside = draw(folder.parent / "photographs2" / "e.png", 9)
    index_statuses(album, folder, beside.parent, encoder=encoder)
    beside.unlink()
    (folder / "a.png").unlink()
    index_statuses(album, folder, encoder=encoder)
    assert sorted(Path(one.path).name for one in album.pictures()) == ["b.jpg", "c.png", "d.webp", "e.png"]


def test_excluded_and_hidden_files_are_not_indexed(album: Album, folder: Path, encoder: DualEncoder) -> None:
    draw(folder / ".hidden" / "x.png", 5)
    draw(folder / "deep" / "keep.png", 6)
    rows = index_statuses(
        album, folder, encoder=encoder, exclude=["*.jpg", "deep/er/", "c.*", "deep/k*", "!deep/keep.png"]
    )
    assert set(rows) == {"a.png", "keep.png"}


def test_a_symlink_cycle_terminates(album: Album, folder: Path, encoder: DualEncoder) -> None:
    (folder / "deep" / "up").symlink_to(folder)
    assert len(index_statuses(album, folder, encoder=encoder)) == 4


def test_broken_files_are_listed_with_the_reason_until_repaired(
    album: Album, folder: Path, encoder: DualEncoder
) -> None:
    index_statuses(album, folder, encoder=encoder)
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[:300])
    (folder / "text.png").write_text("no picture")
    (folder / "nowhere.png").symlink_to(folder / "gone")
    summary = album.index(folder, model=encoder)
    assert {Path(one.path).name for one in summary.failed} == {"b.jpg", "text.png", "nowhere.png"}
    assert all(one.error for one in summary.failed)
    assert [Path(path).name for path, _ in album.failed()] == ["b.jpg", "nowhere.png", "text.png"]
    assert len(album) == 3
    (folder / "b.jpg").write_bytes(whole)
    (folder / "text.png").unlink()
    (folder / "nowhere.png").unlink()
    assert not album.index(folder, model=encoder).failed
    assert not album.failed() and len(album) == 4


def test_an_unavailable_folder_keeps_its_pictures(album: Album, folder: Path, encoder: DualEncoder) -> None:
    index_statuses(album, folder, encoder=encoder)
    folder.rename(folder.parent / "away")
    assert len(album.index(folder, model=encoder).failed) == 1
    assert len(album) == 4
    folder.mkdir()  # an empty mount point, judging by the device number
    with album.store.transaction():
        album.store.connection.execute("UPDATE root SET device = device + 1")
    summary = album.index(folder, model=encoder)
    assert "disk" in str(summary.failed[0].error) and len(album) == 4
    with album.store.transaction():
        album.store.connection.execute("UPDATE root SET device = device - 1")
    assert album.index(folder, model=encoder).removed == 4


def test_file_names_that_are_not_valid_utf8_are_preserved(album: Album, tmp_path: Path, encoder: DualEncoder) -> None:
    folder = tmp_path / "odd"
    names = [
        b"latin-\xe9.png",
        b"new\nline.png",
        b"<b>&'\".png",
        b"';DROP TABLE picture;--.png",
        "中文 照片.png".encode(),
    ]
    for number, name in enumerate(names):
        draw(folder / os.fsdecode(name), number)
    album.index(folder, model=encoder)
    assert {os.fsencode(Path(one.path).name) for one in album.pictures()} == set(names)
    assert all(one.name.isprintable() for one in album.pictures())
    assert album.index(folder, model=encoder).unchanged == len(names)


def test_time_place_camera_caption_and_keywords_are_read(album: Album, tmp_path: Path, encoder: DualEncoder) -> None:
    from beholder.pictures.caption_metadata import write_caption

    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "Canon EOS R6"
    exif[0x8769] = {0x9003: "2024:05:31 14:03:00"}
    exif[0x8825] = {1: "S", 2: (33.0, 51.0, 0.0), 3: "E", 4: (151.0, 12.0, 0.0)}
    path = draw(tmp_path / "p" / "x.jpg", 1, exif=exif)
    write_caption(path, "an opera house by the water")
    album.index(path.parent, model=encoder)
    (picture,) = album.pictures("date:2024-05 camera:canon caption:OPERA near:-33.86,151.21,5")
    assert (picture.taken, picture.camera) == ("2024-05-31T14:03:00", "Canon EOS R6")
    assert picture.caption == "an opera house by the water"


def test_a_sidecar_added_later_is_detected(album: Album, folder: Path, encoder: DualEncoder) -> None:
    from beholder.pictures.caption_metadata import write_caption

    index_statuses(album, folder, encoder=encoder)
    assert write_caption(folder / "deep" / "er" / "d.webp", "a red barn").name == "d.webp.xmp"
    assert album.index(folder, model=encoder).unchanged == 4
    assert [Path(one.path).name for one in album.pictures("caption:barn")] == ["d.webp"]


def test_embeddings_of_two_models_coexist(album: Album, folder: Path, encoder: DualEncoder) -> None:
    import torch

    other = DualEncoder(tiny_model.build())
    with torch.no_grad():
        other.network.image_head.linear.weight.mul_(-1)
    album.index(folder, model=encoder)
    album.index(folder, model=other)
    mine, theirs = (read_vectors(album.store, model)[1].astype(np.float32) for model in reversed(album.models()))
    np.testing.assert_allclose(mine, -theirs, atol=1e-3)
    like = album.search(image=folder / "a.png", top=1)
    assert Path(like[0].picture.path).name == "a.png" and like[0].cosine == pytest.approx(1, abs=2e-3)


def test_search_uses_the_previous_model_until_the_new_one_has_indexed_everything(
    album: Album, folder: Path, encoder: DualEncoder
) -> None:
    album.index(folder, model=encoder)
    other = tiny_encoder()

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        album.index(folder, model=other, on_file=stop)
    assert [model.fingerprint for model in album.models()] == [encoder.fingerprint, other.fingerprint]
    assert len(album.search(image=folder / "a.png", top=10)) == 4
    album.index(folder, model=other)
    assert album.models()[0].fingerprint == other.fingerprint


def test_a_second_indexer_is_told_which_process_holds_the_lock(
    album: Album, folder: Path, encoder: DualEncoder
) -> None:
    def second(_: object) -> None:
        with pytest.raises(AlbumBusy, match=f"process {os.getpid()}"):
            Album.open(album.folder).index(folder, model=encoder)

    album.index(folder, model=encoder, on_file=second)
    assert album.index(folder, model=encoder).unchanged == 4


def test_a_second_indexer_is_refused_before_the_lock_holder_has_written_its_pid(
    album: Album, folder: Path, encoder: DualEncoder
) -> None:
    def second(_: object) -> None:
        (album.folder / HOLDER).write_text("")
        with pytest.raises(AlbumBusy, match="another process is indexing"):
            Album.open(album.folder).index(folder, model=encoder)

    album.index(folder, model=encoder, on_file=second)


def test_opening_something_other_than_an_album_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AlbumNotFound, match="index"):
        Album.open(tmp_path / "none", create_new=False)
    (tmp_path / "album.sqlite").write_text("something else, long enough to be looked at" * 100)
    with pytest.raises(AlbumDamaged, match="not an album"):
        Album.open(tmp_path)
    (tmp_path / "other").mkdir()
    import sqlite3

    with sqlite3.connect(tmp_path / "other" / "album.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(AlbumDamaged, match="another program"):
        Album.open(tmp_path / "other")


def test_an_album_of_a_newer_version_is_refused(album: Album) -> None:
    album.store.connection.pragma("user_version", 99)
    album.close()
    with pytest.raises(AlbumDamaged, match="newer"):
        Album.open(album.folder)


def test_nothing_to_index_is_an_error(album: Album) -> None:
    with pytest.raises(InvalidSetting):
        album.index([])


class FileOperations(RuleBasedStateMachine):
    """Whatever happens to files between index runs, the album equals one built from scratch."""

    root: Path
    encoder: DualEncoder
    turn = 0

    @initialize()
    def begin(self) -> None:
        FileOperations.turn += 1
        self.home = self.root / str(FileOperations.turn)
        self.folder = self.home / "photographs"
        self.folder.mkdir(parents=True)
        self.album = Album.open(self.home / "album")
        self.clock = 10**18
        self.indexed = False

    names = st.sampled_from(["a.png", "b.png", "c/a.png", "c/d.png"])

    @rule(name=names, seed=st.integers(0, 3))
    def write(self, name: str, seed: int) -> None:
        self.touch(draw(self.folder / name, seed))

    @rule(name=names)
    def damage(self, name: str) -> None:
        if (self.folder / name).exists():
            (self.folder / name).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
            self.touch(self.folder / name)

    @rule(name=names)
    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    @rule(name=names, to=names)
    def move(self, name: str, to: str) -> None:
        if (self.folder / name).exists() and name != to:
            (self.folder / to).parent.mkdir(exist_ok=True)
            (self.folder / name).replace(self.folder / to)

    @rule()
    def index(self) -> None:
        self.album.index(self.folder, model=self.encoder)
        fresh = Album.open(self.home / "fresh")
        fresh.index(self.folder, model=self.encoder)
        assert_same(content(self.album), content(fresh))
        if len(fresh):
            mine, theirs = (
                {found.picture.path: found.cosine for found in album.search("a dog", top=9, model=self.encoder)}
                for album in (self.album, fresh)
            )
            assert mine == pytest.approx(theirs, abs=2e-3)
        fresh.close()
        shutil.rmtree(self.home / "fresh")
        self.indexed = True

    @invariant()
    def database_is_consistent(self) -> None:
        if getattr(self, "indexed", False):
            assert self.album.store.scalar("PRAGMA quick_check") == "ok"

    def touch(self, path: Path) -> None:
        self.clock += 1_000_000_000  # later writes get a later mtime, however fast the test runs
        os.utime(path, ns=(self.clock, self.clock))

    def teardown(self) -> None:
        self.album.close()
        shutil.rmtree(self.home)


@pytest.mark.slow
def test_after_any_file_operations_the_album_equals_one_built_from_scratch(
    tmp_path: Path, encoder: DualEncoder
) -> None:
    FileOperations.root, FileOperations.encoder = tmp_path, encoder
    run_state_machine_as_test(
        FileOperations,
        settings=settings(
            max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
