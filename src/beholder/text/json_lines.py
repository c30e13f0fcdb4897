"""JSON lines: one JSON object per line, as training and evaluation data, captions and answers are stored."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from beholder.errors import InvalidSetting

Row = TypeVar("Row")


def read_json_lines(file: Path, parse: Callable[[dict[str, Any]], Row], form: str) -> Iterator[Row]:
    """Yield what ``parse`` makes of each line's object, in order; blank lines are skipped.

    Args:
        file: UTF-8, with or without a byte order mark.
        parse: converts an object; raises ValueError, KeyError, TypeError or AttributeError for one of another form.
        form: what a line should hold, for messages, such as ``"image and captions (a list)"``.

    Raises:
        InvalidSetting: the file can't be read or has no line, or a line is of another form; the message names the line.
    """
    number = 0
    empty = True
    try:
        with file.open("rb") as lines:  # a str would also be split at U+2028, which may stand inside a JSON string
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise TypeError(f"{type(row).__name__} in place of an object")
                parsed = parse(row)
                empty = False
                yield parsed
    except OSError as error:
        raise InvalidSetting(
            f"{file}: cannot be read ({error.strerror or error}); it should hold JSON lines with {form}"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidSetting(f"{file}, line {number}: not UTF-8 text; it should hold JSON lines with {form}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidSetting(f"{file}, line {number}: not a JSON object with {form}") from error
    if empty:
        raise InvalidSetting(f"{file}: is empty; it should hold JSON lines with {form}")


def json_line(row: dict[str, Any]) -> str:
    r"""Return an object as one line of JSON, without the line end.

    Text stays readable; half a surrogate pair, as in a file name that is not UTF-8, is written as ``\udcff``, so that
    the line is valid UTF-8 and reading it gives a name that opens the file.
    """
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
