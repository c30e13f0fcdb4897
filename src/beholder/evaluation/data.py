"""Data to evaluate on: JSON lines beside their pictures, or a folder of classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting
from beholder.pictures.walk import walk
from beholder.text.json_lines import read_json_lines


@dataclass(frozen=True)
class Captioned:
    """A picture and what people said of it."""

    image: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A picture, a question about it, and what people answered."""

    image: Path
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """A picture and its class."""

    image: Path
    label: str


def read_captioned(file: Path) -> list[Captioned]:
    """JSON lines with ``image`` (relative to the file) and ``captions`` (a list with at least one).

    Raises:
        InvalidSetting: the file is missing or empty, or a line is not of this form; the message has its number.
    """
    return list(read_json_lines(file, partial(_captioned, file.parent), "image and captions (a list)"))


def read_asked(file: Path) -> list[Asked]:
    """JSON lines with ``image``, ``question``, and ``answer`` or a list ``answers``. Errors as for `read_captioned`."""
    form = "image, question and answer (or a list of answers)"
    return list(read_json_lines(file, partial(_asked, file.parent), form))


def read_labelled(data: Path) -> list[Labelled]:
    """JSON lines with ``image`` and ``label``, or a folder whose folders are classes, each with its pictures.

    Raises:
        InvalidSetting: as for `read_captioned`, or there are not at least two classes.
    """
    if data.is_dir():
        folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
        examples = [Labelled(path, folder.name) for folder in folders for path in walk(folder)]
        wanted = "a folder of classes holds a folder of pictures for each class"
    else:
        examples = list(read_json_lines(data, partial(_labelled, data.parent), "image and label"))
        wanted = "a choice needs several"
    if len({example.label for example in examples}) < 2:
        raise InvalidSetting(f"{data}: holds {len({e.label for e in examples})} classes; {wanted}")
    return examples


def _captioned(folder: Path, row: Mapping[str, Any]) -> Captioned:
    return Captioned(folder / row["image"], _texts(row["captions"]))


def _asked(folder: Path, row: Mapping[str, Any]) -> Asked:
    answers = row["answers"] if "answers" in row else [row["answer"]]
    return Asked(folder / row["image"], _texts([row["question"]])[0], _texts(answers))


def _labelled(folder: Path, row: Mapping[str, Any]) -> Labelled:
    return Labelled(folder / row["image"], _texts([row["label"]])[0])


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        raise TypeError("texts are wanted")
    return tuple(values)
