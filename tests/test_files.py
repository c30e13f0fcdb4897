import os
from pathlib import Path

import pytest

from beholder.errors import WriteFailed
from beholder.files import (
    atomic_file,
    atomic_files,
    atomic_folder,
    remove_unfinished,
    reported,
    write_bytes,
    write_text,
)


class Stop(Exception):
    pass


def failing(step, nth: int):
    """Wrap a step so that its ``nth`` call fails."""
    calls = iter(range(100))

    def called(*arguments: object) -> object:
        if next(calls) == nth:
            raise OSError(28, "No space left on device")
        return step(*arguments)

    return called


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in ("old", "new"):
        write_text(path, content)
        assert path.read_text() == content
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), atomic_file(path) as scratch:
        scratch.write_text("half of")
        assert scratch.name == path.name and path.read_text() == "old"
        raise Stop
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("module, name", [(os, "fsync"), (Path, "replace")])
def test_a_step_that_fails_leaves_the_old_file(
    module: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(module, name, failing(getattr(module, name), 0))
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_file_then_folder_are_flushed_and_a_cache_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    fsync = os.fsync

    def recorded_fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not name open files")
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    write_text(tmp_path / "a.txt", "content")
    assert [path.name for path in flushed] == ["a.txt", tmp_path.name]
    with atomic_file(tmp_path / "b.txt", durable=False) as scratch:
        scratch.write_text("content")
    assert len(flushed) == 2 and (tmp_path / "b.txt").read_text() == "content"


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o640


def test_files_move_in_the_order_of_their_suffixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: moved.append(path.name) or replace(path, target))
    with atomic_files(tmp_path) as scratch:
        for name in ("tower.xml", "tower.bin"):
            (scratch / name).write_text(name)
    assert moved == ["tower.bin", "tower.xml"] == sorted(path.name for path in tmp_path.iterdir())


def test_an_existing_folder_is_replaced_or_kept_as_requested(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    for content, replace, expected in [("1", False, "1"), ("2", False, "1"), ("3", True, "3")]:
        with atomic_folder(folder, replace=replace) as scratch:
            (scratch / "file").write_text(content)
        assert (folder / "file").read_text() == expected
        assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_is_unchanged_if_its_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")
    monkeypatch.setattr(Path, "rename", failing(Path.rename, 1))
    with pytest.raises(OSError, match="No space left"), atomic_folder(folder, replace=True) as scratch:
        (scratch / "file").write_text("new")
    assert (folder / "file").read_text() == "old" and list(tmp_path.iterdir()) == [folder]


def test_an_os_error_is_reported_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a.txt"
    with pytest.raises(WriteFailed, match=r"a\.txt: can't be written: No such file or directory"), reported(path):
        write_text(path, "content")


def test_leftovers_of_a_killed_process_can_be_removed(tmp_path: Path) -> None:
    process = os.fork() if hasattr(os, "fork") else pytest.skip("no fork")
    if process == 0:
        with atomic_file(tmp_path / "a.txt") as scratch:
            scratch.write_text("half of")
            os._exit(1)
    os.waitpid(process, 0)
    assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []
