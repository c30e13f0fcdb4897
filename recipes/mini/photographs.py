"""Photographs with captions, split the same way by everybody."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beholder.errors import InvalidSetting


@dataclass(frozen=True)
class Photograph:
    """A picture's path, its captions, and the collection it comes from."""

    path: Path
    captions: tuple[str, ...]
    source: str


def read_photographs(file: Path) -> list[Photograph]:
    """JSON lines with ``image`` (relative to the file), ``captions`` (a list) and, where known, ``source``.

    Raises:
        InvalidSetting: the file is missing, or a line is not of this form; the message has its number.
    """
    if not file.is_file():
        raise InvalidSetting(f"{file}: no such file; it should hold JSON lines with image and captions")
    photographs = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            captions = tuple(row["captions"])
            photographs.append(Photograph(file.parent / row["image"], captions, row.get("source", "")))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidSetting(f"{file}, line {number}: not a JSON object with image and captions") from error
    return photographs


def by_hash(photographs: Sequence[Photograph]) -> list[Photograph]:
    """In the order of a hash of the file name: a shuffle that no other photograph's coming or going changes."""
    return sorted(photographs, key=lambda photograph: hashlib.sha256(photograph.path.name.encode()).hexdigest())
