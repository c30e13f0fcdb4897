"""Evaluation data: JSON lines next to their pictures, or a folder of classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting
from beholder.pictures.walk import walk
from beholder.text.json_lines import read_json_lines


@dataclass(frozen=True)
class CaptionExample:
    """A picture and its reference captions."""

    image: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class VQAExample:
    """A picture, a question about it, and the reference answers."""

    image: Path
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class LabeledExample:
    """A picture and its class label."""

    image: Path
    label: str


def read_caption_examples(file: Path) -> list[CaptionExample]:
    """Read JSON lines with ``image`` (relative to the file) and ``captions`` (a list with at least one).

    Raises:
        InvalidSetting: the file is missing or empty, or a line has another form; the message names it.
    """
    return list(read_json_lines(file, partial(_captioned, file.parent), "image and captions (a list)"))


def read_vqa_examples(file: Path) -> list[VQAExample]:
    """Read JSON lines with ``image``, ``question``, and ``answer`` or a list ``answers``.

    Errors as for `read_caption_examples`.
    """
    form = "image, question and answer (or a list of answers)"
    return list(read_json_lines(file, partial(_asked, file.parent), form))


def read_labeled_examples(data: Path) -> list[LabeledExample]:
    """Read JSON lines with ``image`` and ``label``, or a folder with a folder of pictures for each class.

    Raises:
        InvalidSetting: as for `read_caption_examples`, or there are fewer than two classes.
    """
    if data.is_dir():
        folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
        examples = [LabeledExample(path, folder.name) for folder in folders for path in walk(folder)]
        hint = "a folder of classes holds a folder of pictures for each class"
    else:
        examples = list(read_json_lines(data, partial(_labelled, data.parent), "image and label"))
        hint = "classification needs several"
    if len({example.label for example in examples}) < 2:
        raise InvalidSetting(f"{data}: holds {len({e.label for e in examples})} classes; {hint}")
    return examples


def _captioned(folder: Path, row: Mapping[str, Any]) -> CaptionExample:
    return CaptionExample(folder / row["image"], _texts(row["captions"]))


def _asked(folder: Path, row: Mapping[str, Any]) -> VQAExample:
    answers = row["answers"] if "answers" in row else [row["answer"]]
    return VQAExample(folder / row["image"], _texts([row["question"]])[0], _texts(answers))


def _labelled(folder: Path, row: Mapping[str, Any]) -> LabeledExample:
    return LabeledExample(folder / row["image"], _texts([row["label"]])[0])


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        raise TypeError("not a list of texts")
    return tuple(values)
