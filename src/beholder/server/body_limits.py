"""A cheap structural check of JSON bodies before they are parsed: an object with millions of keys would block the
event loop and take gigabytes once it is parsed, however small its bytes."""

from __future__ import annotations

import re

from beholder.server.http_errors import HTTPError

MAX_VALUES = 50_000  # keys and array items; the largest legitimate body, 2,048 content parts, has about 12,000
MAX_DEPTH = 32
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]', re.DOTALL)


def check_json_structure(body: bytes) -> None:
    """Count keys, items and nesting without building anything; stops at the first excess.

    Raises:
        HTTPError: The body has too many keys or items, or is nested too deeply.
    """
    values = depth = 0
    for match in TOKEN.finditer(body):
        token = body[match.start()]
        if token in b",:":
            values += 1
        elif token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise HTTPError(
                400, "the body has too many keys or items, or is nested too deeply", code="body_too_complex"
            )
