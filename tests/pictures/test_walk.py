"""walk on files, folders, symlinks and folders that can't be listed."""

import os
import sys
from pathlib import Path

import pytest

from beholder.pictures.walk import PassedOverWarning, walk


def _make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _names(root: Path, *sources: str | Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in walk(*sources)]


def test_a_folder_yields_only_its_pictures_sorted(tmp_path: Path):
    _make(tmp_path, "b.JPG", "a.png", "c/d.webp", "c/e.txt", "z.heic", "notes.md", "c.gif")
    assert _names(tmp_path, tmp_path) == ["a.png", "b.JPG", "c/d.webp", "c.gif", "z.heic"]


def test_hidden_files_and_folders_are_skipped_unless_named_explicitly(tmp_path: Path):
    _make(tmp_path, ".a.png", "._b.jpg", ".hidden/c.png", "d.png")
    assert _names(tmp_path, tmp_path) == ["d.png"]
    assert _names(tmp_path, tmp_path / ".hidden") == [".hidden/c.png"]


def test_an_explicitly_named_file_is_yielded_regardless_of_suffix_and_existence(tmp_path: Path):
    _make(tmp_path, "notes.md")
    assert _names(tmp_path, tmp_path / "notes.md", str(tmp_path / "gone.jpg")) == ["notes.md", "gone.jpg"]


def test_sources_are_walked_in_the_given_order(tmp_path: Path):
    _make(tmp_path, "a/1.png", "b/2.png", "3.png")
    assert _names(tmp_path, tmp_path / "b", tmp_path / "3.png", tmp_path / "a") == ["b/2.png", "3.png", "a/1.png"]


def test_symlink_cycles_end_and_each_folder_is_entered_once(tmp_path: Path):
    _make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    assert _names(tmp_path, tmp_path) == ["a/1.png", "a/other/2.png", "self.png"]
    assert _names(tmp_path, tmp_path / "a", tmp_path / "a") == ["a/1.png", "a/other/2.png", "a/up/self.png"]


def test_a_symlink_to_a_picture_is_yielded(tmp_path: Path):
    _make(tmp_path, "elsewhere/1.png")
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "linked.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert _names(tmp_path, tmp_path / "album") == ["album/linked.png"]


def test_folders_nested_deeper_than_the_recursion_limit_are_walked(tmp_path: Path):
    deep = tmp_path
    for _ in range(1100):  # above the recursion limit, below the path length limit
        deep /= "a"
        deep.mkdir()
    picture = deep / "1.png"
    picture.touch()
    try:
        assert list(walk(tmp_path)) == [picture]
    finally:  # too deep for pytest's own cleanup
        picture.unlink()
        while deep != tmp_path:
            deep.rmdir()
            deep = deep.parent


def test_an_unlistable_folder_is_yielded_itself_and_the_walk_continues(tmp_path: Path, monkeypatch):
    _make(tmp_path, "locked/1.png", "open/2.png")
    list_folder = os.scandir

    def refuse(path: Path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert _names(tmp_path, tmp_path) == ["locked", "open/2.png"]


def test_system_folders_are_skipped_and_reported(tmp_path: Path):
    _make(
        tmp_path,
        "real.jpg",
        "@eaDir/real.jpg/SYNOPHOTO_THUMB_M.jpg",
        "a/#recycle/1.jpg",
        "$RECYCLE.BIN/1.jpg",
        "Previews.lrdata/1.jpg",
        "X.photoslibrary/originals/A/1.jpg",
        "X.photoslibrary/resources/derivatives/A/1_4_5005_c.jpeg",
        "resources/kept.jpg",
    )
    with pytest.warns(PassedOverWarning) as caught:
        assert _names(tmp_path, tmp_path) == ["X.photoslibrary/originals/A/1.jpg", "real.jpg", "resources/kept.jpg"]
    assert len(caught) == 1
    for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", "Previews.lrdata", "resources"):
        assert name in str(caught[0].message)


def test_an_explicitly_named_system_folder_is_entered(tmp_path: Path):
    _make(tmp_path, "#recycle/1.jpg")
    assert _names(tmp_path, tmp_path / "#recycle") == ["#recycle/1.jpg"]


def test_unsupported_formats_are_counted_unless_excluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    _make(tmp_path, "1.CR3", "2.cr3", "3.NEF", "4.jxl", "5.psd", "6.MOV", "7.jpg", "8.txt", "raw/9.dng")
    with pytest.warns(PassedOverWarning) as caught:
        names = [path.name for path in walk(tmp_path, skip=lambda path, is_folder: path.name == "raw")]
    assert names == ["7.jpg"]
    message = str(caught[0].message)
    for part in ("2 RAW (cr3)", "1 RAW (nef)", "1 JPEG XL (jxl)", "1 Photoshop (psd)", "1 videos (mov)"):
        assert part in message
    assert "dng" not in message


def test_no_warning_is_issued_if_nothing_is_skipped(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    _make(tmp_path, "1.jpg", "notes.txt", "1.jpg.xmp")
    assert _names(tmp_path, tmp_path) == ["1.jpg"]
    assert not recwarn
