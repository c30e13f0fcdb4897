"""What an evaluation found, for a person, a program and a drawing."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from beholder.errors import PictureError, WriteFailed
from beholder.evaluation.confidence import Figure

Item = TypeVar("Item")


@dataclass(frozen=True)
class Result:
    """One thing that was judged.

    Attributes:
        image: the picture; where a sentence looked for one, the picture that it found first.
        said: what the model said.
        expected: what is right.
        score: how right it is: 0 to 1, for a caption its CIDEr.
        question: what was asked, or looked for.
    """

    image: str
    said: str
    expected: str
    score: float
    question: str = ""


@dataclass(frozen=True)
class Report:
    """The figures of one model on some data, and all that led to them.

    Attributes:
        task: ``retrieval``, ``zero-shot``, ``linear-probe``, ``caption`` or ``vqa``.
        model: what it is called.
        data: where the data lies.
        pictures: how many were judged.
        figures: with their 95 % intervals; a bootstrap over the pictures.
        failed: pictures that could not be used, and why.
        settings: what was asked for.
        details: what the figures are made of.
        results: everything that was judged.
    """

    task: str
    model: str
    data: str
    pictures: int
    figures: list[Figure]
    failed: list[tuple[str, str]]
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        written = asdict(self)
        written["failed"] = [{"image": name, "error": error} for name, error in self.failed]
        for row in written["results"]:
            if not row["question"]:
                del row["question"]
        return written

    def write(self, path: Path) -> None:
        """Writes JSON aside and puts it in place.

        Raises:
            WriteFailed: the disk is full, or there is no such folder.
        """
        aside = path.with_name(f".{path.name}.writing")
        try:
            aside.write_text(
                json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8", "surrogateescape"
            )
            aside.replace(path)
        except OSError as error:
            raise WriteFailed(f"{path}: can't be written: {error.strerror or error}") from error


class Watcher(Protocol):
    """Who is told while the work goes on."""

    def follow(self, items: Iterable[Item], total: int) -> Iterable[Item]:
        """The same items; each that is taken is one of ``total`` done."""

    def failed(self, error: PictureError) -> None:
        """A picture can't be used."""


class NullProgress:
    """A watcher that says nothing."""

    def follow(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """The same items."""
        yield from items

    def failed(self, error: PictureError) -> None:
        """Nothing; the report names it."""
