"""A file of labels: one a line."""

import warnings
from pathlib import Path

from beholder.errors import InvalidSetting


class LabelsWarning(UserWarning):
    """A file of labels holds something that was left out."""


def read_labels(file: Path) -> list[str]:
    """The labels in a UTF-8 file, in order.

    Blank lines and lines that begin with ``#`` are skipped, spaces around a label too. A label that comes again is
    left out.

    Raises:
        InvalidSetting: the file cannot be read, is not UTF-8, or holds no label.

    Warns:
        LabelsWarning: labels came again; it names them and their lines.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidSetting(f"{file}: cannot read the labels ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InvalidSetting(f"{file}: is not UTF-8 text; save it as UTF-8, one label a line") from None
    first_line: dict[str, int] = {}
    again = []
    for number, line in enumerate(text.splitlines(), start=1):
        label = line.strip()
        if not label or label.startswith("#"):
            continue
        if label in first_line:
            again.append(f"{label} (line {number}, first in line {first_line[label]})")
        else:
            first_line[label] = number
    if again:
        more = f" and {len(again) - 5} more" if len(again) > 5 else ""
        warnings.warn(f"{file}: left out what came again: {', '.join(again[:5])}{more}", LabelsWarning, stacklevel=2)
    if not first_line:
        raise InvalidSetting(f"{file}: holds no label; write one a line")
    return list(first_line)
