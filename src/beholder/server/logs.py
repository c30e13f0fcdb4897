"""Logs: one JSON object a line on standard error. What people send and what they get is never in it."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

LOGGER = logging.getLogger("beholder.server")


class AsJson(logging.Formatter):
    """A record as one line; its ``fields`` become keys. Of an exception: its type and where, never its words."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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


def set_up() -> None:
    """Has the server and what it stands on write so."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AsJson())
    for name in ("beholder.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def log(event: str, **fields: object) -> None:
    """One line."""
    LOGGER.info(event, extra={"fields": fields})
