"""The result of an evaluation: metrics, and the examples they come from."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from beholder.errors import PictureError
from beholder.evaluation.bootstrap import Metric
from beholder.files import reported, write_text

Item = TypeVar("Item")


@dataclass(frozen=True)
class ScoredExample:
    """One scored prediction.

    Attributes:
        image: the picture; in text-to-image retrieval, the picture that ranks first.
        prediction: the model's output.
        expected: the ground truth.
        score: from 0 to 1; of a caption, its CIDEr.
        question: the question, or the query.
    """

    image: str
    prediction: str
    expected: str
    score: float
    question: str = ""


@dataclass(frozen=True)
class Report:
    """The metrics of one model on one data set.

    Attributes:
        task: ``retrieval``, ``zero-shot``, ``linear-probe``, ``caption`` or ``vqa``.
        model: the model's name.
        data: the path of the data.
        pictures: number of pictures evaluated.
        metrics: with 95 % intervals of a bootstrap over the pictures.
        failed: names of pictures that could not be used, with the reasons.
        settings: settings of the evaluation.
        details: breakdowns, such as the accuracy per class.
        examples: every scored prediction.
    """

    task: str
    model: str
    data: str
    pictures: int
    metrics: list[Metric]
    failed: list[tuple[str, str]]
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    examples: list[ScoredExample] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, under the names of the file format."""
        values = {name: getattr(self, name) for name in ("task", "model", "data", "pictures")}
        values["figures"] = [asdict(metric) for metric in self.metrics]
        values["failed"] = [{"image": name, "error": error} for name, error in self.failed]
        values |= {"settings": self.settings, "details": self.details, "results": []}
        for example in self.examples:
            row: dict[str, Any] = {"image": example.image, "said": example.prediction, "expected": example.expected}
            row |= {"score": example.score} | ({"question": example.question} if example.question else {})
            values["results"].append(row)
        return values

    def write(self, path: Path) -> None:
        """Write the report as JSON, atomically.

        Raises:
            WriteFailed: the disk is full, or there is no such folder.
        """
        with reported(path):
            write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", "backslashreplace")


class Progress(Protocol):
    """Receives the progress of an evaluation."""

    def track(self, items: Iterable[Item], total: int) -> Iterable[Item]:
        """Return the same items; taking one means that one more of ``total`` is done."""

    def failed(self, error: PictureError) -> None:
        """Record a picture that can't be used."""


class NullProgress:
    """Discards progress."""

    def track(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Return the same items."""
        yield from items

    def failed(self, error: PictureError) -> None:
        """Do nothing; the report lists it."""
