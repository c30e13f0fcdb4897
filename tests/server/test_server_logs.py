import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from beholder.errors import InvalidSetting
from beholder.server.logs import JsonLinesHandler


def record(message: str, name: str = "beholder.server", **fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": name, "msg": message, "levelname": "INFO", "fields": fields})


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def fill_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let the disk have room for so many bytes."""
    write = os.write

    def limited(file: int, data: bytes) -> int:
        nonlocal free
        if free == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, data[:free])
        free -= written
        return written

    monkeypatch.setattr(os, "write", limited)


@pytest.mark.parametrize("free", [0, 1, 50, 200])
def test_a_full_disk_leaves_whole_lines_and_a_count(path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    handler = JsonLinesHandler(path)
    handler.emit(record("first"))
    with monkeypatch.context() as patch:
        fill_disk(patch, free)
        for number in range(5):
            handler.emit(record(f"event {number}"))
    handler.emit(record("last"))
    handler.close()
    events = [row["event"] for row in rows(path)]
    written = [event for event in events if event.startswith("event")]
    assert written == [f"event {number}" for number in range(len(written))] and len(written) < 5
    lost = next(row for row in rows(path) if row["event"] == "log_lines_lost")
    assert lost["count"] == 5 - len(written)
    assert events == ["first", *written, "log_lines_lost", "last"]


def test_the_file_is_reopened_by_its_name(path: Path) -> None:
    handler = JsonLinesHandler(path)
    handler.emit(record("before"))
    path.rename(path.with_suffix(".1"))
    handler.emit(record("renamed"))
    handler.reopen()
    handler.emit(record("after"))
    handler.close()
    assert [row["event"] for row in rows(path.with_suffix(".1"))] == ["before", "renamed"]
    assert [row["event"] for row in rows(path)] == ["after"]
    assert path.stat().st_mode & 0o007 == 0


def test_a_log_that_can_not_be_reopened_goes_on_in_the_old_file(path: Path) -> None:
    folder = path.parent / "logs"
    folder.mkdir()
    handler = JsonLinesHandler(folder / "log")
    folder.rename(path.parent / "moved")
    handler.reopen()
    handler.emit(record("still there"))
    handler.close()
    assert [row["event"] for row in rows(path.parent / "moved" / "log")] == ["still there"]


def test_a_log_that_can_not_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--log-file"):
        JsonLinesHandler(tmp_path / "nothing" / "log")


def test_records_that_can_not_be_formatted_are_counted(path: Path) -> None:
    handler = JsonLinesHandler(path)
    handler.emit(logging.makeLogRecord({"name": "uvicorn.error", "msg": "%d", "args": ("x",), "levelname": "INFO"}))
    handler.emit(record("fine", text="\ud800 \n"))
    handler.close()
    assert [row["event"] for row in rows(path)] == ["log_lines_lost", "fine"]


def test_texts_of_libraries_are_not_logged(path: Path) -> None:
    handler = JsonLinesHandler(path)
    handler.emit(record("a secret text", name="PIL.Image"))
    handler.close()
    assert "secret" not in path.read_text()
    assert (rows(path)[0]["event"], rows(path)[0]["logger"]) == ("library", "PIL.Image")
