"""Logging: one JSON object per line on standard error, without anything that was sent or answered."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

LOGGER = logging.getLogger("beholder.server")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line; its ``fields`` become keys. Of an exception: type and location, never its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        row: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            row["error"] = record.exc_info[0].__name__
            row["where"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])
            ][-8:]
        return json.dumps(row, ensure_ascii=False)


def configure_logging() -> None:
    """Send the records of the server and of uvicorn to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("beholder.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def log_event(event: str, **fields: object) -> None:
    """Log one line."""
    LOGGER.info(event, extra={"fields": fields})
