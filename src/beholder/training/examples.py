"""Training data of a dual encoder: images with their texts, from JSON lines, a table, or a folder of classes."""

import csv
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting
from beholder.pictures.walk import walk
from beholder.text.json_lines import read_json_lines
from beholder.text.templates import fill_templates

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
DELIMITERS = (",", "\t", ";", "|")
FORM = 'image and captions, such as {"image": "a.jpg", "captions": ["a cat"]}'


class ExamplesWarning(UserWarning):
    """Some rows of a table were ignored."""


@dataclass(frozen=True)
class Example:
    """An image and its texts, one of which is sampled each time.

    Attributes:
        name: by which messages refer to it.
        picture: a path, or the bytes of a file.
        texts: at least one.
        label: its class, if any; all texts of a class count as the same text.
    """

    name: str
    picture: Path | bytes
    texts: tuple[str, ...]
    label: str = ""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold the image and its caption."""

    image: str = "image"
    caption: str = "caption"


def read_examples(path: Path, columns: Columns, templates: Sequence[str]) -> list[Example]:
    """Read all examples of a file or a folder.

    Args:
        path: JSON lines with ``image`` (relative to the file), ``captions`` (a list) or ``caption``, and optionally a
            ``label``; a CSV or TSV file with a header; or a folder with one folder of images for each class.
        columns: of a table.
        templates: prompt templates for the class names.

    Raises:
        InvalidSetting: nothing is there, a line has another form (the message names its number), there is no example,
            or a single class.

    Warns:
        ExamplesWarning: rows of a table have no image or no caption; the message names their lines.
    """
    if path.is_dir():
        examples = list(_classes(path, templates))
        labels = {example.label for example in examples}
        if len(labels) == 1:
            raise InvalidSetting(
                f"{path}: all pictures are of one class ({labels.pop()}); with nothing to tell apart, nothing is "
                "learned. Each class needs a folder of its own in it"
            )
    elif not path.is_file():
        raise InvalidSetting(f"{path}: no such file or folder; it should hold pictures and their captions")
    elif path.suffix.lower() in JSON_LINES:
        examples = list(
            read_json_lines(
                path, lambda row: Example(row["image"], path.parent / row["image"], texts_of(row), label_of(row)), FORM
            )
        )
    elif path.suffix.lower() in TABLES:
        examples = list(_table(path, columns))
    else:
        raise InvalidSetting(f"{path}: is none of {', '.join((*JSON_LINES, *TABLES))}, .tar or a folder of classes")
    if not examples:
        raise InvalidSetting(f"{path}: holds no pictures with captions")
    return examples


def check_distinguishable(examples: Sequence[Example], name: str) -> None:
    """Refuse examples that all say, or all show, the same.

    Raises:
        InvalidSetting: there are several examples, and only one text, label or image among them.
    """
    if len(examples) < 2:
        return
    texts = {text_key(text, example.label) for example in examples for text in example.texts}
    what = ""
    if len(texts) == 1:
        what = f"label ({examples[0].label})" if examples[0].label else f"caption ({examples[0].texts[0]})"
    elif len({example.picture for example in examples}) == 1:
        what = "picture"
    if what:
        raise InvalidSetting(f"{name}: all lines have the same {what}; with nothing to tell apart, nothing is learned")


def key_of(value: str | bytes) -> int:
    """Hash an image or a text to 63 bits; equal values have equal keys."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def text_key(text: str, label: str = "") -> int:
    """Hash what a text says: case and white space make no difference, nor does the prompt around a label."""
    return key_of(f"class {label}" if label else " ".join(text.casefold().split()))


def texts_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the captions of a JSON object: a list ``captions``, or a single text ``caption``.

    Raises:
        TypeError: it has none, or they are not strings.
    """
    found = row.get("captions", row.get("caption"))
    texts = (found,) if isinstance(found, str) else tuple(found or ())
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TypeError("no captions")
    return texts


def label_of(row: dict[str, Any]) -> str:
    """Return the label of a JSON object; empty where there is none, or it is null.

    Raises:
        TypeError: it is not a string.
    """
    label = row.get("label") or ""
    if not isinstance(label, str):
        raise TypeError("a label must be a string")
    return label


def _table(file: Path, columns: Columns) -> Iterator[Example]:
    with file.open("rb") as binary:
        encoding = "utf-16" if binary.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    line = 1
    skipped: list[int] = []
    try:
        with file.open(encoding=encoding, newline="") as text:
            first = text.readline()
        with file.open(encoding=encoding, newline="") as text:
            if first.casefold().startswith("sep="):  # Excel's own first line
                line += 1
                text.readline()
            rows = csv.reader(text, delimiter=_delimiter(first, columns))
            before = line  # lines of the file that are none of the reader's, and one
            names = [name.strip() for name in next(rows, [])]
            missing = {columns.image, columns.caption} - set(names)
            if missing:
                raise InvalidSetting(
                    f"{file}: has no column {' and no column '.join(sorted(missing))}; its first line names "
                    f"{', '.join(names) or 'none'} (the setting data.columns says which to use)"
                )
            places = names.index(columns.image), names.index(columns.caption)
            line = before + rows.line_num
            for row in rows:
                if len(row) > len(names):
                    raise InvalidSetting(
                        f"{file}, line {line}: has {len(row)} columns where the first line names {len(names)}; a text "
                        "that holds the delimiter belongs in quotes"
                    )
                image, caption = (row[place] if place < len(row) else "" for place in places)
                if image.strip() and caption.strip():
                    yield Example(image, file.parent / image, (caption,))
                elif row:
                    skipped.append(line)
                line = before + rows.line_num
    except UnicodeError as error:
        raise InvalidSetting(
            f"{file}, line {_undecodable(file) or line}: is not UTF-8 text; a spreadsheet saves it as CSV UTF-8"
        ) from error
    except csv.Error as error:
        raise InvalidSetting(f"{file}, line {line}: cannot be read as a table ({error})") from error
    if skipped:
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        lines = ", ".join(map(str, skipped[:5]))
        message = f"{file}: ignored rows without a picture or a caption: line {lines}{more}"
        warnings.warn(message, ExamplesWarning, stacklevel=2)


def _delimiter(first: str, columns: Columns) -> str:
    """Return the delimiter of a table with this first line."""
    if first.casefold().startswith("sep="):
        return first.strip()[4:5] or ","
    fields = {each: next(csv.reader([first], delimiter=each), []) for each in DELIMITERS}
    wanted = {columns.image, columns.caption}
    named = (each for each, names in fields.items() if wanted <= {name.strip() for name in names})
    return next(named, max(fields, key=lambda each: len(fields[each])))


def _undecodable(file: Path) -> int | None:
    """Return the number of the first line that is not UTF-8."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def _classes(folder: Path, templates: Sequence[str]) -> Iterator[Example]:
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = inside.name.replace("_", " ")
        texts = tuple(fill_templates(templates, [label]))
        for path in walk(inside):
            yield Example(str(path.relative_to(folder)), path, texts, label)
