"""Logging: one JSON object per line, on standard error or in a file, without anything that was sent or answered."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from beholder.errors import InvalidSetting

LOGGER = logging.getLogger("beholder.server")
OWN_LOGGERS = ("beholder.server", "uvicorn.error")  # whose messages are known to contain nothing that was sent


class JsonFormatter(logging.Formatter):
    """Formats a record as one line; its ``fields`` become keys. Of an exception: type and location, never its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        own = record.name in OWN_LOGGERS
        row: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage() if own else "library",
            **({} if own else {"logger": record.name}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            row["error"] = record.exc_info[0].__name__
            row["where"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])
            ][-8:]
        return json.dumps(row, ensure_ascii=False)


class JsonLinesHandler(logging.Handler):
    """Writes whole lines, also to a disk that is full for a while: what was begun is completed first, and lines that
    could not be written are counted.

    Args:
        path: The file; None for standard error.

    Raises:
        InvalidSetting: The file can't be opened.
    """

    def __init__(self, path: Path | None = None):
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.path = path
        self._rest = b""  # of a line of which only the beginning was written
        self._lost = 0
        try:
            self._file = self._open()
        except OSError as error:
            raise InvalidSetting(f"--log-file {path}: cannot be opened ({error.strerror})") from None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; never raises."""
        try:
            line = self.format(record)
        except Exception:  # such as a message that does not fit its arguments
            self._lost += 1
            return
        try:
            self._finish()
            if self._lost:
                lost = {"msg": "log_lines_lost", "levelname": "WARNING", "fields": {"count": self._lost}}
                self._write(self.format(logging.makeLogRecord({"name": LOGGER.name, **lost})))
                self._lost = 0
            self._write(line)
        except OSError:
            self._lost += 1

    def reopen(self) -> None:
        """Open the file by its name again, after it was renamed or removed."""
        if self.path is None or self.lock is None:
            return
        with self.lock:
            before = self._file
            with suppress(OSError):  # such as a folder that is gone: the old file is still there
                self._finish()
                self._file = self._open()
                self._rest = b""
                os.close(before)

    def close(self) -> None:
        """Close the file."""
        if self.path is not None and self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1
        super().close()

    def _open(self) -> int:
        if self.path is None:
            try:
                return sys.stderr.fileno()
            except (AttributeError, OSError, ValueError):
                return 2
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def _write(self, line: str) -> None:
        self._rest = line.encode("utf-8", "backslashreplace") + b"\n"
        begun = len(self._rest)
        try:
            self._finish()
        except OSError:
            if len(self._rest) == begun:
                self._rest = b""  # not begun: lost as a whole
                raise

    def _finish(self) -> None:
        while self._rest:
            self._rest = self._rest[os.write(self._file, self._rest) :]


def configure_logging(path: Path | None = None) -> JsonLinesHandler:
    """Send the records of the server, of uvicorn and of libraries to a file or standard error as JSON lines.

    Of other loggers than these two, warnings are logged without their texts, which may quote what was sent.

    Raises:
        InvalidSetting: The file can't be opened.
    """
    handler = JsonLinesHandler(path)
    for name in OWN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    return handler


def log_uncaught_exceptions() -> None:
    """Log exceptions that nothing handles, which Python would print as tracebacks."""

    def log(event: str) -> Callable[[type[BaseException], BaseException | None, TracebackType | None], None]:
        def hook(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
            exc_info = (kind, error or kind(), trace)
            LOGGER.error(event, exc_info=exc_info)

        return hook

    in_thread, unraisable = log("thread_failed"), log("exception_ignored")
    threading.excepthook = lambda args: in_thread(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: unraisable(args.exc_type, args.exc_value, args.exc_traceback)


def log_event(event: str, **fields: object) -> None:
    """Log one line."""
    LOGGER.info(event, extra={"fields": fields})
