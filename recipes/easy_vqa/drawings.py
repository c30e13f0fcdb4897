"""The easy-VQA dataset of the package ``easy-vqa`` 1.0 (MIT): drawings of single shapes with questions."""

import json
from dataclasses import dataclass
from pathlib import Path

from beholder.errors import InvalidSetting

SHAPES = {"circle", "rectangle", "triangle"}


@dataclass(frozen=True)
class Drawing:
    """A drawing of 64 x 64 pixels with its questions and answers."""

    path: Path
    questions: tuple[tuple[str, str], ...]


def read_easy_vqa(folder: Path, split: str) -> list[Drawing]:
    """Read the drawings of a split, ``train`` or ``test``, ordered by number.

    Args:
        folder: The unpacked wheel, or the folder ``data`` in it.
        split: Name of the split.

    Raises:
        InvalidSetting: The folder has no such split.
    """
    places = (folder, folder / "data", folder / "easy_vqa" / "data")
    data = next((place for place in places if (place / split / "questions.json").is_file()), None)
    if data is None:
        raise InvalidSetting(f"{folder}: no easy-VQA split {split!r} here; unpack the wheel of easy-vqa 1.0 there")
    questions_by_number: dict[int, list[tuple[str, str]]] = {}
    for question, answer, number in json.loads((data / split / "questions.json").read_text(encoding="utf-8")):
        questions_by_number.setdefault(number, []).append((question, answer))
    return [
        Drawing(data / split / "images" / f"{number}.png", tuple(questions_by_number[number]))
        for number in sorted(questions_by_number)
    ]


def caption_of_drawing(drawing: Drawing) -> str:
    """Return color and shape as far as the questions reveal them: "a teal circle", "a teal shape", "a circle"."""
    colors: set[str] = set()
    shapes: set[str] = set()
    for question, answer in drawing.questions:
        words = question.rstrip("?").split()
        if words[0] == "what":
            (colors if "color" in words else shapes).add(answer)
        elif (answer == "yes") == ({"no", "not"}.isdisjoint(words)):  # the question is about something present
            before = words.index("shape") - 1 if "shape" in words else None
            colors |= set() if before is None else {words[before]}
        else:
            continue
        shapes |= SHAPES.intersection(words)
    return " ".join(["a", *colors, *(shapes or ["shape"])])
