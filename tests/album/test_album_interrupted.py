"""Killed, stopped, out of space, with concurrent processes: the album stays consistent and the next run resumes."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest
from small_album import assert_same, content, draw, tiny_encoder

from beholder.album.album import Album
from beholder.album.store.schema import FILE
from beholder.errors import AlbumDamaged, WriteFailed
from beholder.tasks.dual_encoder import DualEncoder

PICTURES = 120
INDEX = """
import sys
from beholder.album import indexing
from beholder.album.album import Album
indexing.COMMIT_AFTER = 8
print("ready", flush=True)
report = lambda row: print(row.status, row.path, flush=True)
Album.open(sys.argv[1]).index(sys.argv[2], model=sys.argv[3], on_file=report, batch_size=8)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(PICTURES):
        draw(folder / f"{number % 7}" / f"{number}.png", number)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    album = Album.open(tmp_path_factory.mktemp("uninterrupted"))
    album.index(folder, model=str(tiny_model))
    return content(album)


def start(album: Path, folder: Path, model: Path, program: str = INDEX) -> subprocess.Popen[str]:
    order = [sys.executable, "-c", program, str(album), str(folder), str(model)]
    return subprocess.Popen(order, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_indexing_interrupted_at_random_resumes_and_equals_an_uninterrupted_run(
    stop: signal.Signals, folder: Path, tiny_model: Path, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    drawn = random.Random(int(stop))
    acknowledged: set[str] = set()
    stops = 0
    for _ in range(4):
        process = start(tmp_path, folder, tiny_model)
        assert process.stdout is not None
        wanted = drawn.randrange(PICTURES)
        for number, line in enumerate(process.stdout):
            status, _, path = line.strip().partition(" ")
            if status == "added" and line.endswith("\n"):  # a line truncated by the kill is ignored
                assert path not in acknowledged, "embedded twice"
                acknowledged.add(path)
            if number == wanted:
                time.sleep(drawn.random() * 0.02)
                process.send_signal(stop)
                stops += 1
        process.communicate()
        with Album.open(tmp_path) as album:
            assert album.store.scalar("PRAGMA integrity_check") == "ok"
            there = {one.path for one in album.pictures()}
            assert acknowledged <= there
            assert not there or album.search(image=next(iter(there)), top=1)[0].cosine > 0.99
            acknowledged = there
    assert stops >= 2
    with Album.open(tmp_path) as album:
        album.index(folder, model=str(tiny_model))
        assert_same(content(album), uninterrupted)


@pytest.mark.slow
def test_search_works_while_another_process_indexes(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    first = next(folder.rglob("*.png"))
    Album.open(tmp_path).index(first, model=str(tiny_model))
    process = start(tmp_path, folder, tiny_model)
    assert process.stdout is not None
    process.stdout.readline()
    sizes = []
    with Album.open(tmp_path, create_new=False) as album:
        while process.poll() is None:
            process.stdout.readline()
            sizes.append(len(album))
            found = album.search("a dog", top=5)
            assert len(found) == min(5, sizes[-1]) or len(found) >= 1
            assert album.search(image=first, top=1)[0].picture.path == str(first)
    assert process.returncode == 0
    assert sizes == sorted(sizes) and len(set(sizes)) > 2


@pytest.mark.slow
def test_of_two_concurrent_indexers_one_succeeds_and_the_other_names_it(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    both = [start(tmp_path, folder, tiny_model) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 1] or codes == [0, 0]  # the second may start after the first has finished
    assert codes == [0, 0] or any("AlbumBusy" in error and "process" in error for error in errors)
    with Album.open(tmp_path) as album:
        assert len(album) == PICTURES


@pytest.mark.slow
def test_an_album_can_be_created_concurrently(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for number in range(30):
            for album in threads.map(Album.open, [tmp_path / str(number)] * 8):
                album.close()


@pytest.mark.slow
def test_two_writers_without_the_lock_do_not_corrupt_the_album(
    folder: Path, tiny_model: Path, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    unlocked = INDEX.replace(
        "indexing.COMMIT_AFTER = 8",
        """
indexing.COMMIT_AFTER = 8
from contextlib import nullcontext
Album._writer_lock = lambda self: nullcontext()
""",
    )
    both = [start(tmp_path, folder, tiny_model, unlocked) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    with Album.open(tmp_path) as album:
        assert_same(content(album), uninterrupted)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_loses_nothing(
    folder: Path, tiny_model: Path, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    """The kernel limits the size of every file that the process writes, as a full disk would."""
    program = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    program += f"resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, {resource.RLIM_INFINITY}))\n" + INDEX
    process = start(tmp_path, folder, tiny_model, program)
    output, errors = process.communicate()
    assert process.returncode == 1 and "WriteFailed" in errors and "full" in errors, errors
    acknowledged = [line for line in output.splitlines() if line.startswith("added")]
    with Album.open(tmp_path) as album:
        assert album.store.scalar("PRAGMA integrity_check") == "ok"
        assert 0 < len(acknowledged) <= len(album) < PICTURES
        assert album.search("a dog", top=1)
        album.index(folder, model=str(tiny_model))
        assert_same(content(album), uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An in-memory file system with a capacity of 700 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", place], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.slow
def test_search_works_on_a_full_disk_and_indexing_resumes_once_space_is_freed(
    small_disk: Path, folder: Path, tiny_model: Path, uninterrupted: dict[str, object]
) -> None:
    process = start(small_disk / "album", folder, tiny_model)
    _, errors = process.communicate()
    assert process.returncode == 1 and "WriteFailed" in errors and "full" in errors, errors
    with Album.open(small_disk / "album") as album:
        there = len(album)
        assert 0 < there < PICTURES and album.search("a dog", top=1)
        subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
        assert album.index(folder, model=str(tiny_model)).unchanged == there
        assert album.store.scalar("PRAGMA integrity_check") == "ok"
        assert_same(content(album), uninterrupted)


class FailingVFS(apsw.VFS):
    """A VFS whose n-th write or sync fails."""

    def __init__(self, name: str):
        self.remaining = -1
        self.fired = False
        super().__init__(name, base="")

    def xOpen(self, name, flags):  # noqa: N802 (apsw's names)
        return FailingFile(self, name, flags)

    def count_operation(self) -> None:
        if self.remaining == 0:
            self.fired = True
            raise apsw.IOError
        self.remaining -= 1


class FailingFile(apsw.VFSFile):
    def __init__(self, system: FailingVFS, name, flags):
        self.system = system
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self.system.count_operation()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self.system.count_operation()
        super().xSync(flags)


@pytest.mark.slow
def test_indexing_resumes_after_any_failed_write_or_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beholder.album.store import schema

    encoder: DualEncoder = tiny_encoder()
    folder = tmp_path / "photographs"
    for number in range(6):
        draw(folder / f"{number}.png", number)
    whole = Album.open(tmp_path / "whole")
    whole.index(folder, model=encoder)
    system = FailingVFS("failing")
    connection = apsw.Connection
    failures = 0
    for nth in range(0, 400, 3):
        place = tmp_path / str(nth)
        system.remaining, system.fired = nth, False
        monkeypatch.setattr(schema.apsw, "Connection", lambda name, flags: connection(name, flags=flags, vfs="failing"))
        try:
            Album.open(place).index(folder, model=encoder)
        except WriteFailed:
            failures += 1
        system.remaining = -1
        monkeypatch.setattr(schema.apsw, "Connection", connection)
        with Album.open(place) as album:
            assert album.store.scalar("PRAGMA integrity_check") == "ok"
            album.index(folder, model=encoder)
            assert_same(content(album), content(whole))
        if not system.fired:
            break
    assert failures > 5


def test_a_corrupt_database_is_reported_without_failing_the_pictures(tmp_path: Path) -> None:
    folder = draw(tmp_path / "p" / "a.png", 1).parent
    with Album.open(tmp_path / "album") as album:
        album.index(folder, model=tiny_encoder())
        album.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file = tmp_path / "album" / FILE
    data = bytearray(file.read_bytes())
    data[4096:20000] = os.urandom(20000 - 4096)
    file.write_bytes(data)
    with pytest.raises(AlbumDamaged, match="Your pictures are not touched"), Album.open(tmp_path / "album") as album:
        list(album.pictures())
        album.check()
