"""Captions or answers in a file, JSON lines or CSV, a row for each as soon as it is there."""

import csv
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting, WriteFailed

EXTENSIONS = (".jsonl", ".csv")


class ResultFile:
    """Appends to a file that may hold rows already: ``known`` are their texts by what they are about.

    Args:
        path: ends in .jsonl or .csv.

    Raises:
        InvalidSetting: the name ends otherwise, or the file holds something else.
        WriteFailed: it can't be opened.
    """

    what: str
    columns: tuple[str, ...]
    about: tuple[str, ...]
    text: str

    def __init__(self, path: Path):
        if path.suffix.lower() not in EXTENSIONS:
            raise InvalidSetting(f"{path}: {self.what} go into a .jsonl or a .csv file")
        self.path = path
        self.csv = path.suffix.lower() == ".csv"
        self.known: dict[tuple[str, ...], str] = {}
        self.written = 0
        text = ""
        try:
            if path.exists():
                text = path.read_text("utf-8")
            whole = text[: text.rfind("\n") + 1]  # a line that was cut short goes, and is written again
            self.known = self._read(whole)
            self.file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self.file.truncate(len(whole.encode()))
            self.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise WriteFailed(f"{path}: can't be opened: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise InvalidSetting(f"{path}: holds something else than {self.what}; name another file") from error
        if self.csv and not whole:
            self._append(self._csv_line(self.columns))

    def add(self, row: dict[str, Any]) -> None:
        """One row, on disk when this returns.

        Raises:
            WriteFailed: the disk is full, or gone; what was written before stays.
        """
        if self.csv:
            self._append(self._csv_line(["" if row.get(name) is None else row[name] for name in self.columns]))
        else:
            self._append(json.dumps(row, ensure_ascii=False) + "\n")
        self.written += 1

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def _append(self, line: str) -> None:
        end = self.file.tell()
        try:
            left = line.encode("utf-8", "surrogateescape")
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            reason = error.strerror or str(error)
            with suppress(OSError):  # a line that was cut short is dropped when the file is opened again
                self.file.truncate(end)
            raise WriteFailed(
                f"{self.path}: {reason}; the {self.written} {self.what} written before are there, and the same command "
                "goes on behind them"
            ) from error

    def _read(self, text: str) -> dict[tuple[str, ...], str]:
        try:
            if self.csv:
                rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text, newline="")))
            else:
                rows = [json.loads(line) for line in text.splitlines()]
            return {tuple(row[name] for name in self.about): row[self.text] for row in rows}
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise InvalidSetting(f"{self.path}: holds something else than {self.what}; name another file") from error

    @staticmethod
    def _csv_line(values: Any) -> str:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(values)
        return line.getvalue()


class CaptionFile(ResultFile):
    """Captions; ``captions`` are those that it had by picture, ``done`` its pictures."""

    what, columns, about, text = "captions", ("image", "caption", "score", "weak"), ("image",), "caption"

    def __init__(self, path: Path):
        super().__init__(path)
        self.captions = {image: caption for (image,), caption in self.known.items()}
        self.done = set(self.captions)


class AnswerFile(ResultFile):
    """Answers, known by picture and question."""

    what, columns, about, text = "answers", ("image", "question", "answer"), ("image", "question"), "answer"
