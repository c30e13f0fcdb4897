"""What a dual encoder is trained on: pictures with their texts, from JSON lines, CSV, or a folder of classes."""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting
from beholder.pictures.walk import walk
from beholder.text.templates import fill_templates

JSON_LINES = (".jsonl", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Example:
    """A picture and the texts of which one is drawn each time.

    Attributes:
        name: what messages call it.
        picture: a path, or the bytes of a file.
        texts: at least one.
        label: of its class, where there are classes; all texts of a class say the same.
    """

    name: str
    picture: Path | bytes
    texts: tuple[str, ...]
    label: str = ""


@dataclass(frozen=True)
class Columns:
    """What a CSV file calls the picture and its caption."""

    image: str = "image"
    caption: str = "caption"


def read_examples(path: Path, columns: Columns, templates: Sequence[str]) -> list[Example]:
    """All examples of a file or a folder.

    Args:
        path: JSON lines with ``image`` (relative to the file), ``captions`` (a list) or ``caption``, and perhaps a
            ``label``; a CSV or TSV file with a header; or a folder with a folder of pictures for each class.
        columns: of a CSV file.
        templates: the sentences around a class's name.

    Raises:
        InvalidSetting: nothing is there, a line is of another form (the message has its number), there is no example,
            or only one class.
    """
    if path.is_dir():
        examples = list(_classes(path, templates))
        labels = {example.label for example in examples}
        if len(labels) == 1:
            raise InvalidSetting(
                f"{path}: all pictures are of one class ({labels.pop()}); with nothing to tell apart, nothing is "
                "learned. Each class has a folder of its own in it"
            )
    elif not path.is_file():
        raise InvalidSetting(f"{path}: no such file or folder; it should hold pictures and their captions")
    elif path.suffix.lower() in JSON_LINES:
        examples = list(_json_lines(path))
    elif path.suffix.lower() in TABLES:
        examples = list(_table(path, columns))
    else:
        raise InvalidSetting(f"{path}: is none of {', '.join((*JSON_LINES, *TABLES))}, .tar or a folder of classes")
    if not examples:
        raise InvalidSetting(f"{path}: holds no pictures with captions")
    return examples


def key_of(value: str | bytes) -> int:
    """A number of 63 bits that stands for a picture or a text; equal ones have the same."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def text_key(text: str, label: str = "") -> int:
    """``key_of`` what a text says: capitals and spaces make no difference, nor does the sentence around a label."""
    return key_of(f"class {label}" if label else " ".join(text.casefold().split()))


def texts_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The captions of a JSON object: a list ``captions``, or one text, ``caption``.

    Raises:
        TypeError: it has none, or they are no texts.
    """
    found = row.get("captions", row.get("caption"))
    texts = (found,) if isinstance(found, str) else tuple(found or ())
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TypeError("no captions")
    return texts


def label_of(row: dict[str, Any]) -> str:
    """The label of a JSON object; empty where it has none.

    Raises:
        TypeError: it is no text.
    """
    label = row.get("label", "")
    if not isinstance(label, str):
        raise TypeError("a label is a text")
    return label


def _json_lines(file: Path) -> Iterator[Example]:
    with file.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    yield Example(row["image"], file.parent / row["image"], texts_of(row), label_of(row))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise InvalidSetting(
                        f'{file}, line {number}: should be like {{"image": "a.jpg", "captions": ["a cat"]}}'
                    ) from error
        except UnicodeDecodeError as error:
            raise InvalidSetting(f"{file}: is not UTF-8 text") from error


def _table(file: Path, columns: Columns) -> Iterator[Example]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        try:
            rows = csv.DictReader(lines, delimiter=TABLES[file.suffix.lower()])
            missing = {columns.image, columns.caption} - set(rows.fieldnames or ())
            if missing:
                raise InvalidSetting(
                    f"{file}: has no column {' and no column '.join(sorted(missing))}; its first line names "
                    f"{', '.join(rows.fieldnames or ()) or 'none'} (the setting data.columns says which to use)"
                )
            for row in rows:
                image, caption = row[columns.image], row[columns.caption]
                if not image or not caption or not caption.strip():
                    raise InvalidSetting(f"{file}, line {rows.line_num}: the picture or its caption is missing")
                yield Example(image, file.parent / image, (caption,))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InvalidSetting(f"{file}: cannot be read as a table in UTF-8 ({error})") from error


def _classes(folder: Path, templates: Sequence[str]) -> Iterator[Example]:
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = inside.name.replace("_", " ")
        texts = tuple(fill_templates(templates, [label]))
        for path in walk(inside):
            yield Example(str(path.relative_to(folder)), path, texts, label)
