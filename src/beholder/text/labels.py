"""Label files: one label per line."""

import warnings
from pathlib import Path

from beholder.errors import InvalidSetting


class LabelsWarning(UserWarning):
    """Some lines of a label file were ignored."""


def read_labels(file: Path) -> list[str]:
    """Read the labels of a UTF-8 file, in order.

    Blank lines and lines that start with ``#`` are skipped, white space around a label is removed, and duplicates are
    dropped.

    Raises:
        InvalidSetting: the file cannot be read, is not UTF-8, or has no label.

    Warns:
        LabelsWarning: labels were duplicated; the message names them and their lines.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidSetting(f"{file}: cannot read the labels ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InvalidSetting(f"{file}: is not UTF-8 text; save it as UTF-8, one label per line") from None
    first_line: dict[str, int] = {}
    duplicates = []
    for number, line in enumerate(text.splitlines(), start=1):
        label = line.strip()
        if not label or label.startswith("#"):
            continue
        if label in first_line:
            duplicates.append(f"{label} (line {number}, first in line {first_line[label]})")
        else:
            first_line[label] = number
    if duplicates:
        more = f" and {len(duplicates) - 5} more" if len(duplicates) > 5 else ""
        message = f"{file}: ignored duplicate labels: {', '.join(duplicates[:5])}{more}"
        warnings.warn(message, LabelsWarning, stacklevel=2)
    if not first_line:
        raise InvalidSetting(f"{file}: has no label; write one per line")
    return list(first_line)
