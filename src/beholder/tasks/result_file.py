"""Captions or answers in a JSON lines or CSV file, each row written as soon as it is there.

People open these files, correct them and save them from editors and spreadsheets. So existing rows are never rewritten,
and byte order marks, other delimiters, other column orders and a missing newline at the end are understood.
"""

import csv
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting, WriteFailed
from beholder.files import reported, write_text

EXTENSIONS = (".jsonl", ".csv")
_DELIMITERS = (",", ";", "\t")


class ResultFile:
    """Appends rows to a file that may already hold some.

    Opening changes nothing but an empty file, which gets a CSV header. A last line that was cut off while it was
    written is dropped when the first row is appended; one with a key and a text, though without a newline, stays.

    Args:
        path: Path that ends in .jsonl or .csv.

    Attributes:
        existing: The text of each row that was there, by its key columns.
        num_written: Number of rows appended since.

    Raises:
        InvalidSetting: The file has another extension or other contents.
        WriteFailed: The file can't be opened.
    """

    noun: str
    columns: tuple[str, ...]
    key_columns: tuple[str, ...]
    text_column: str

    def __init__(self, path: Path):
        if path.suffix.lower() not in EXTENSIONS:
            raise InvalidSetting(f"{path}: {self.noun} go into a .jsonl or a .csv file")
        self.path = path
        self.is_csv = path.suffix.lower() == ".csv"
        self.delimiter, self.line_end = ",", "\n"
        self.existing: dict[tuple[str, ...], str] = {}
        self.num_written = 0
        self._end, self._lead, self._is_cut_off = 0, "", False
        try:
            content = path.read_bytes() if path.exists() else b""
            self._read(content)
            self.file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        except OSError as error:
            raise WriteFailed(f"{path}: can't be opened: {error.strerror or error}") from error
        if self.is_csv and not self._end:
            self._append(self._csv_line(self.columns))

    def append(self, row: dict[str, Any]) -> None:
        """Append one row; it is in the file when this returns.

        Raises:
            WriteFailed: The disk is full or gone; the rows written before are intact.
        """
        if self.is_csv:
            self._append(self._csv_line(["" if row.get(name) is None else row[name] for name in self.columns]))
        else:
            self._append(json.dumps(row, ensure_ascii=False) + "\n")
        self.num_written += 1

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _append(self, line: str) -> None:
        # Names that are not valid Unicode: JSON has escapes for them, CSV takes their bytes.
        left = (self._lead + line).encode("utf-8", "surrogateescape" if self.is_csv else "backslashreplace")
        written = len(left)
        try:
            self.file.seek(self._end)
            if self._is_cut_off:
                self.file.truncate()
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            reason = error.strerror or str(error)
            with suppress(OSError):  # a line that was cut off is dropped when the file is opened again
                self.file.truncate(self._end)
            raise WriteFailed(
                f"{self.path}: {reason}; the {self.num_written} {self.noun} written before are there, and the same "
                "command continues after them"
            ) from error
        self._end += written
        self._lead, self._is_cut_off = "", False

    def _read(self, content: bytes) -> None:
        """Read the existing rows, and set where and how the next one is appended."""
        mark = b"\xef\xbb\xbf" if content.startswith(b"\xef\xbb\xbf") else b""
        text = content[len(mark) :].decode("utf-8", "surrogateescape")
        try:
            last = self._read_header(text) if self.is_csv else text.rfind("\n") + 1
            rows = self._rows(text[:last])
            complete = last == len(text)
            with suppress(ValueError, KeyError, TypeError, csv.Error):
                rows |= self._rows(text[last:], is_last=True)
                complete = True
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise self._other_contents() from error
        self.existing = rows
        kept = text if complete else text[:last]
        self._end = len(mark) + len(kept.encode("utf-8", "surrogateescape"))
        self._is_cut_off = not complete
        self._lead = self.line_end if kept and not kept.endswith("\n") else ""

    def _rows(self, text: str, is_last: bool = False) -> dict[tuple[str, ...], str]:
        """Return the texts of complete rows by their keys."""
        found: list[dict[str, Any]] = []
        if self.is_csv:
            for values in csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=is_last):
                if values and values != list(self.columns):
                    found.append(dict(zip(self.columns, values, strict=False)))
        else:
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        texts = {tuple(row[name] for name in self.key_columns): row[self.text_column] for row in found}
        for value in texts.values():
            value.encode()  # raises where a spreadsheet has saved another encoding than UTF-8
        return texts

    def _read_header(self, text: str) -> int:
        """Adopt the columns, the delimiter and the line ends of a CSV file. Returns where its last record starts."""
        if text:
            line = text.split("\n", 1)[0]
            self.line_end = "\r\n" if line.endswith("\r") else "\n"
            headers = {mark: next(csv.reader([line.rstrip("\r")], delimiter=mark), []) for mark in _DELIMITERS}
            needed = {*self.key_columns, self.text_column}
            self.delimiter = next((mark for mark, header in headers.items() if needed <= set(header)), "")
            if not self.delimiter:
                raise self._other_contents()
            self.columns = tuple(headers[self.delimiter])
        start, at_start, quoted = 0, True, False
        for place, letter in enumerate(text):
            if letter == '"' and (at_start or quoted):
                quoted, at_start = not quoted, not at_start and quoted  # a doubled quote opens again
            elif letter == "\n" and not quoted:
                start, at_start = place + 1, True
            else:
                at_start = letter == self.delimiter and not quoted
        return start

    def _other_contents(self) -> InvalidSetting:
        return InvalidSetting(f"{self.path}: does not hold {self.noun} in UTF-8; name another file")

    def _csv_line(self, values: Any) -> str:
        line = io.StringIO(newline="")
        csv.writer(line, delimiter=self.delimiter, lineterminator=self.line_end).writerow(values)
        return line.getvalue()


class CaptionFile(ResultFile):
    """Captions: ``captions`` are the existing ones by picture, ``done`` their pictures."""

    noun, columns, text_column = "captions", ("image", "caption", "score", "weak"), "caption"
    key_columns = ("image",)

    def __init__(self, path: Path):
        super().__init__(path)
        self.captions = {image: caption for (image,), caption in self.existing.items()}
        self.done = set(self.captions)


class AnswerFile(ResultFile):
    """Answers, by picture and question."""

    noun, columns, text_column = "answers", ("image", "question", "answer"), "answer"
    key_columns = ("image", "question")


def write_text_beside(picture: Path, caption: str) -> None:
    """Write a caption into a text file of the picture's name, as fine-tuning programs read it.

    Raises:
        WriteFailed: it can't be written.
    """
    target = picture.with_suffix(".txt")
    with reported(target):
        write_text(target, f"{caption}\n")
