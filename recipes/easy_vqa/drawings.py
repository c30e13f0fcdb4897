"""The easy-VQA questions about drawings of one shape each, as the package ``easy-vqa`` 1.0 (MIT) carries them."""

import json
from dataclasses import dataclass
from pathlib import Path

from beholder.errors import InvalidSetting

SHAPES = {"circle", "rectangle", "triangle"}


@dataclass(frozen=True)
class Drawing:
    """A drawing of 64 x 64 pixels and its questions with their answers."""

    path: Path
    questions: tuple[tuple[str, str], ...]


def read_easy_vqa(folder: Path, split: str) -> list[Drawing]:
    """The drawings of a split, ``train`` or ``test``, in the order of their numbers.

    Args:
        folder: the unpacked wheel, or the folder ``data`` in it.
        split: which.

    Raises:
        InvalidSetting: the folder holds no such split.
    """
    places = (folder, folder / "data", folder / "easy_vqa" / "data")
    data = next((place for place in places if (place / split / "questions.json").is_file()), None)
    if data is None:
        raise InvalidSetting(f"{folder}: no easy-VQA split {split!r} here; unpack the wheel of easy-vqa 1.0 into it")
    asked: dict[int, list[tuple[str, str]]] = {}
    for question, answer, number in json.loads((data / split / "questions.json").read_text(encoding="utf-8")):
        asked.setdefault(number, []).append((question, answer))
    return [Drawing(data / split / "images" / f"{number}.png", tuple(asked[number])) for number in sorted(asked)]


def drawing_caption(drawing: Drawing) -> str:
    """Its colour and its shape, as far as its questions tell them: "a teal circle", "a teal shape", "a circle"."""
    colours: set[str] = set()
    shapes: set[str] = set()
    for question, answer in drawing.questions:
        words = question.rstrip("?").split()
        if words[0] == "what":
            (colours if "color" in words else shapes).add(answer)
        elif (answer == "yes") == ({"no", "not"}.isdisjoint(words)):  # what is asked for is there
            before = words.index("shape") - 1 if "shape" in words else None
            colours |= set() if before is None else {words[before]}
        else:
            continue
        shapes |= SHAPES.intersection(words)
    return " ".join(["a", *colours, *(shapes or ["shape"])])
