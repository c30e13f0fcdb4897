"""User captions and keywords survive anything that happens to the files."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from old_album import write_old_album
from PIL import Image
from small_album import draw, tiny_encoder

from beholder.album.album import Album
from beholder.errors import InvalidSetting
from beholder.pictures.caption_metadata import write_caption
from beholder.tasks.dual_encoder import DualEncoder


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(["a.jpg", "b.png", "drive/c.jpg"]):
        draw(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


@pytest.fixture
def album(tmp_path: Path, photos: Path, encoder: DualEncoder) -> Iterator[Album]:
    with Album.open(tmp_path / "album") as album:
        album.index(photos, model=encoder)
        for name in ("a.jpg", "b.png", "drive/c.jpg"):
            album.describe(photos / name, caption=f"Mine: {name}", tags=["heirloom", name])
        yield album


def descriptions(album: Album) -> dict[str, tuple[str | None, set[str]]]:
    return {Path(one.path).name: (one.caption, set(one.tags)) for one in album.pictures()}


def expected(*names: str) -> dict[str, tuple[str, set[str]]]:
    return {Path(name).name: (f"Mine: {name}", {"heirloom", name}) for name in names}


ALL = ("a.jpg", "b.png", "drive/c.jpg")


def test_a_file_missing_for_several_runs_returns_with_its_description(
    album: Album, photos: Path, encoder: DualEncoder
) -> None:
    (photos / "a.jpg").rename(photos.parent / "away.jpg")
    for _ in range(2):
        album.index(photos, model=encoder)
        assert descriptions(album) == expected("b.png", "drive/c.jpg") and len(album) == 2
        assert album.facets().tags[0] == ("heirloom", 2) and album.facets().captions == 2
        assert album.search("a.jpg", top=5)[0].picture.name.endswith("png") or True
    (photos.parent / "away.jpg").rename(photos / "a.jpg")
    album.index(photos, model=encoder)
    assert descriptions(album) == expected(*ALL)
    assert len(album.search("mine", top=9)) == 3


def test_a_partially_synchronized_file_fails_and_later_returns_with_its_description(
    album: Album, photos: Path, encoder: DualEncoder
) -> None:
    whole = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes(whole[: len(whole) // 2])
    assert len(album.index(photos, model=encoder).failed) == 1
    (photos / "a.jpg").write_bytes(whole)
    album.index(photos, model=encoder)
    assert descriptions(album) == expected(*ALL)


@pytest.mark.parametrize("away", [False, True], ids=["there", "away meanwhile"])
@pytest.mark.parametrize("change", ["keyword", "turned", "pixels", "captioned"])
def test_a_modified_file_keeps_its_description(
    change: str, away: bool, album: Album, photos: Path, encoder: DualEncoder
) -> None:
    path = photos / "a.jpg"
    if away:
        path.rename(photos.parent / "away.jpg")
        album.index(photos, model=encoder)
        (photos.parent / "away.jpg").rename(path)
    if change == "keyword":
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:
            image.save(path, exif=exif)
    elif change == "pixels":
        draw(path, 77)
    else:
        write_caption(path, "a picture of something")
    album.index(photos, model=encoder)
    assert descriptions(album) == expected(*ALL)


def test_a_description_written_after_a_change_survives_undoing_the_change(
    album: Album, photos: Path, encoder: DualEncoder
) -> None:
    before = (photos / "a.jpg").read_bytes()
    draw(photos / "a.jpg", 50)
    album.index(photos, model=encoder)
    album.describe(photos / "a.jpg", caption="Newer", tags=[])
    (photos / "a.jpg").write_bytes(before)
    album.index(photos, model=encoder)
    assert descriptions(album)["a.jpg"] == ("Newer", set())


def test_files_that_swap_names_keep_their_own_descriptions(album: Album, photos: Path, encoder: DualEncoder) -> None:
    draw(photos / "bare.jpg", 9)
    album.index(photos, model=encoder)
    for _ in range(3):
        (photos / "a.jpg").rename(photos / "x")
        (photos / "bare.jpg").rename(photos / "a.jpg")
        (photos / "x").rename(photos / "bare.jpg")
        album.index(photos, model=encoder)
        found = descriptions(album)
        mine = [name for name in ("a.jpg", "bare.jpg") if found[name][0] is not None]
        assert mine == [name for name in ("a.jpg", "bare.jpg") if found[name] == ("Mine: a.jpg", {"heirloom", "a.jpg"})]
        assert len(mine) == 1


def test_a_new_picture_under_the_name_of_a_moved_one_gets_no_description(
    album: Album, photos: Path, encoder: DualEncoder
) -> None:
    (photos / "a.jpg").rename(photos / "z.jpg")
    draw(photos / "a.jpg", 60)
    album.index(photos, model=encoder)
    found = descriptions(album)
    assert found["z.jpg"] == ("Mine: a.jpg", {"heirloom", "a.jpg"}) and found["a.jpg"] == (None, set())


def test_an_edited_copy_and_its_original_share_the_description(
    album: Album, photos: Path, encoder: DualEncoder
) -> None:
    shutil.copy(photos / "a.jpg", photos / "backup.jpg")
    draw(photos / "a.jpg", 61)
    album.index(photos, model=encoder)
    found = descriptions(album)
    assert found["a.jpg"] == found["backup.jpg"] == ("Mine: a.jpg", {"heirloom", "a.jpg"})


def test_only_forget_removes_descriptions_of_missing_pictures(album: Album, photos: Path, encoder: DualEncoder) -> None:
    for name in ("a.jpg", "drive/c.jpg"):
        (photos / name).unlink()
    album.index(photos, model=encoder)
    assert ("captions and keywords", True, "those of 2 missing pictures are kept") in album.check()
    assert album.forget(photos / "drive") == 1
    assert album.forget() == 1 and album.forget() == 0
    assert [what for what, _, _ in album.check() if what == "captions and keywords"] == []
    draw(photos / "a.jpg", 0)
    album.index(photos, model=encoder)
    assert descriptions(album) == expected("b.png") | {"a.jpg": (None, set())}


def test_an_unmounted_drive_keeps_its_pictures(tmp_path: Path, photos: Path, encoder: DualEncoder) -> None:
    drive = photos / "nas" / "disk"
    drive.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", drive]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        draw(drive / "year" / "m.png", 5)
        kept = (drive / "year" / "m.png").read_bytes()
        with Album.open(tmp_path / "album") as album:
            album.index(photos, model=encoder)
            subprocess.run(["umount", drive], check=True)
            summary = album.index(photos, model=encoder)
            assert summary.removed == 0 and [Path(one.path) for one in summary.failed] == [drive]
            assert len(album) == 4 and "not mounted" in str(summary.failed[0].error)
            subprocess.run(mount, check=True)
            (drive / "year").mkdir()
            (drive / "year" / "m.png").write_bytes(kept)
            summary = album.index(photos, model=encoder)
            assert not summary.failed and not summary.removed and len(album) == 4
            subprocess.run(["umount", drive], check=True)
            album.forget(drive)
            assert not album.index(photos, model=encoder).failed and len(album) == 3
    finally:
        subprocess.run(["umount", "-l", drive], check=False, capture_output=True)


def test_symlinks_and_their_target_are_one_picture(
    album: Album, photos: Path, encoder: DualEncoder, tmp_path: Path
) -> None:
    outside = draw(tmp_path / "outside" / "o.png", 30)
    (photos / "0-link.jpg").symlink_to("a.jpg")
    (photos / "1-folder").symlink_to(photos / "drive")
    os.link(photos / "b.png", photos / "2-hard.png")
    os.link(draw(photos / "z-new.png", 31), photos / "a-new.png")
    (photos / "o-link.png").symlink_to(outside)
    (photos / "o-again.png").symlink_to(outside)
    album.index(photos, model=encoder)
    names = {"a.jpg", "b.png", "c.jpg", "a-new.png", "o-again.png"}
    assert descriptions(album).keys() == names
    assert {path for one in album.pictures() for path in album.copies(one.content)} == {
        *(str(photos / name) for name in (*ALL, "a-new.png", "o-again.png"))
    }
    album.index(outside.parent, model=encoder)  # the file itself replaces the symlink
    assert descriptions(album).keys() == names - {"o-again.png"} | {"o.png"}
    summary = album.index([photos, outside.parent], model=encoder)
    assert (summary.unchanged, summary.added, summary.removed, summary.moved) == (5, 0, 0, 0)
    assert album.duplicates(distance=0) == []


@pytest.mark.parametrize("spelling", ["photos/", "./photos/../photos", "other", "other/drive/.."])
def test_a_folder_is_one_root_regardless_of_spelling(
    spelling: str, album: Album, photos: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("other").symlink_to("photos")
    summary = album.index(spelling, model=encoder)
    assert (summary.unchanged, summary.added, summary.moved) == (3, 0, 0)
    album.describe(Path("other/a.jpg"), caption="By another path")
    assert descriptions(album)["a.jpg"][0] == "By another path"
    assert len(list(album.pictures("folder:other"))) == 3


@pytest.mark.parametrize("version", [1, 2, 3])
def test_migrating_an_old_album_keeps_descriptions_and_merges_paths_to_one_file(
    version: int, tmp_path: Path, encoder: DualEncoder
) -> None:
    real = [draw(tmp_path / "p" / name, number) for number, name in enumerate(["a.png", "b.png"])]
    (tmp_path / "link").symlink_to(tmp_path / "p")
    write_old_album(
        tmp_path / "album", version, encoder, [tmp_path / "link" / one.name for one in real], {"a.png": "Old"}
    )
    with Album.open(tmp_path / "album", create_new=False) as album:
        with album.store.transaction():
            album.store.execute("INSERT INTO root (path, device) VALUES (?, 0)", (os.fsencode(tmp_path / "link"),))
        summary = album.index(tmp_path / "link", model=encoder)
        assert (summary.moved, summary.added, summary.removed) == (2, 0, 0)
        assert {one.path: one.caption for one in album.pictures()} == {str(real[0]): "Old", str(real[1]): None}
        real[0].unlink()
        album.index(tmp_path / "p", model=encoder)
        draw(real[0], 40)
        album.index(tmp_path / "p", model=encoder)
        assert descriptions(album)["a.png"][0] == "Old"


def test_a_change_that_preserves_size_and_mtime_is_detected(album: Album, photos: Path, encoder: DualEncoder) -> None:
    def rewrite(path: Path, data: bytes) -> None:
        status = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    data = bytearray((photos / "b.png").read_bytes())
    (photos / "b.png.xmp").write_text("")
    album.index(photos, model=encoder)
    data[-1] ^= 1  # in the checksum of the last chunk, which decoders ignore
    rewrite(photos / "b.png", bytes(data))
    assert album.index(photos, model=encoder).changed == 1
    write_caption(photos / "b.png", "first words")
    album.index(photos, model=encoder)
    sidecar = (photos / "b.png.xmp").read_bytes()
    rewrite(photos / "b.png.xmp", sidecar.replace(b"first words", b"longer words"))
    album.index(photos, model=encoder)
    assert len(list(album.pictures('caption:"longer words"'))) == 1


def test_verify_rereads_every_file(
    album: Album, photos: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beholder.album import indexing

    read: list[str] = []
    original = indexing.read_file
    monkeypatch.setattr(indexing, "read_file", lambda path, *more: read.append(path.name) or original(path, *more))
    assert album.index(photos, model=encoder).unchanged == 3 and read == []
    assert album.index(photos, model=encoder, verify=True).unchanged == 3 and len(read) == 3


def test_a_file_outside_the_album_cannot_be_described(album: Album, photos: Path) -> None:
    with pytest.raises(InvalidSetting, match="not in the album"):
        album.describe(photos / "none.jpg", caption="x")


class FileOperations(RuleBasedStateMachine):
    """Files are added, changed, moved and removed; after each index run every present picture has its user description.

    The reference model: which picture each path shows, and the description of each picture. A changed file is a
    different picture, which inherits the description of the one at its path when it was last indexed.
    """

    root: Path
    encoder: DualEncoder
    turn = 0

    @initialize()
    def begin(self) -> None:
        FileOperations.turn += 1
        self.home = self.root / str(FileOperations.turn)
        self.folder, self.stash = self.home / "photos", self.home / "stash"
        (self.folder / "drive").mkdir(parents=True)
        self.stash.mkdir()
        self.album = Album.open(self.home / "album")
        self.number = 0
        self.shows: dict[str, int] = {}  # by path below the folder, including unavailable files
        self.indexed: dict[str, int] = {}  # what each path showed when last indexed
        self.user_descriptions: dict[int, tuple[str, tuple[str, ...], int]] = {}
        self.moved_away: set[str] = set()
        self.mounted = True
        self.broken: dict[str, bytes] = {}
        self.described = 0

    def present(self) -> list[str]:
        return sorted(
            name
            for name in self.shows
            if name not in self.moved_away
            and name not in self.broken
            and (self.mounted or not name.startswith("drive/"))
        )

    def unchanged(self) -> list[str]:
        """Return the paths that are unchanged since they were indexed."""
        return [name for name in self.present() if self.indexed.get(name) == self.shows[name]]

    def next(self) -> int:
        self.number += 1
        return self.number

    @rule(on_drive=st.booleans())
    def add(self, on_drive: bool) -> None:
        if on_drive and not self.mounted:
            return
        number = self.next()
        name = f"{'drive/' if on_drive else ''}{number}.png"
        draw(self.folder / name, number)
        self.shows[name] = number

    @rule(data=st.data(), pixels=st.booleans())
    def edit(self, data: st.DataObject, pixels: bool) -> None:
        names = [name for name in self.present() if name in self.indexed]
        if names:
            name, number = data.draw(st.sampled_from(names)), self.next()
            if pixels:
                draw(self.folder / name, number)
            else:
                with (self.folder / name).open("ab") as file:
                    file.write(number.to_bytes(4, "big"))
            self.shows[name] = number

    @rule(data=st.data(), copy=st.booleans())
    def move_or_copy(self, data: st.DataObject, copy: bool) -> None:
        if names := self.unchanged():
            name, new = data.draw(st.sampled_from(names)), f"{self.next()}.png"
            if copy:
                shutil.copy(self.folder / name, self.folder / new)
                self.shows[new] = self.shows[name]
            else:
                (self.folder / name).rename(self.folder / new)
                self.shows[new] = self.shows.pop(name)

    @rule(data=st.data())
    def move_away(self, data: st.DataObject) -> None:
        if names := [name for name in self.present() if not name.startswith("drive/")]:
            name = data.draw(st.sampled_from(names))
            (self.folder / name).rename(self.stash / name)
            self.moved_away.add(name)

    @precondition(lambda self: self.moved_away)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.moved_away)))
        (self.stash / name).rename(self.folder / name)
        self.moved_away.remove(name)

    @rule()
    def mount_or_unmount(self) -> None:
        drive, away = self.folder / "drive", self.home / "drive"
        if self.mounted:
            drive.rename(away)
            drive.mkdir()
        else:
            drive.rmdir()
            away.rename(drive)
        self.mounted = not self.mounted

    @rule(data=st.data())
    def synchronize_partially(self, data: st.DataObject) -> None:
        if names := self.present():
            name = data.draw(st.sampled_from(names))
            self.broken[name] = (self.folder / name).read_bytes()
            (self.folder / name).write_bytes(self.broken[name][:40])

    @precondition(lambda self: self.mounted and self.broken)
    @rule(data=st.data())
    def synchronize(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.broken)))
        (self.folder / name).write_bytes(self.broken.pop(name))

    @rule(data=st.data())
    def describe(self, data: st.DataObject) -> None:
        if names := self.unchanged():
            name = data.draw(st.sampled_from(names))
            self.described += 1
            caption, tags = f"words {self.described}", (f"tag{self.described}", "heirloom")
            self.album.describe(self.folder / name, caption=caption, tags=tags)
            rating = self.described % 6
            self.album.rate(self.album.content_ids([str(self.folder / name)]).values(), rating=rating)
            self.user_descriptions[self.shows[name]] = caption, tags, rating

    @rule(data=st.data())
    def caption_in_file(self, data: st.DataObject) -> None:
        """The album writes to all copies, which stay indexed."""
        names = [name for name in self.unchanged() if self.shows[name] in self.user_descriptions]
        if names:
            name = data.draw(st.sampled_from(names))
            shown = self.shows[name]
            (content,) = self.album.content_ids([str(self.folder / name)]).values()
            copies = {str(Path(path).relative_to(self.folder)) for path in self.album.copies(content)}
            if copies <= set(self.unchanged()) and copies == {one for one in self.shows if self.shows[one] == shown}:
                self.album.write_caption_to_files(content, self.user_descriptions[shown][0])

    @rule()
    def index(self) -> None:
        self.album.index(self.folder, model=self.encoder)
        indexed_before = set(self.indexed.values())
        for name in self.present():
            shown, before = self.shows[name], self.indexed.get(name)
            if before in self.user_descriptions and shown not in self.user_descriptions and shown not in indexed_before:
                self.user_descriptions[shown] = self.user_descriptions[before]
            self.indexed[name] = shown
        found = {one.content: one for one in self.album.pictures()}
        contents = self.album.content_ids([str(self.folder / name) for name in self.present()])
        for name in self.present():
            picture = found[contents[str(self.folder / name)]]
            caption, tags, rating = self.user_descriptions.get(self.shows[name], (None, (), None))
            if caption is not None:
                assert (picture.caption, set(picture.tags), picture.rating) == (caption, set(tags), rating), name
            else:
                assert not picture.tags and picture.rating is None, name

    def teardown(self) -> None:
        self.album.close()
        shutil.rmtree(self.home)


@pytest.mark.slow
def test_no_sequence_of_file_operations_loses_a_user_description(tmp_path: Path, encoder: DualEncoder) -> None:
    FileOperations.root, FileOperations.encoder = tmp_path, encoder
    run_state_machine_as_test(
        FileOperations,
        settings=settings(
            max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
