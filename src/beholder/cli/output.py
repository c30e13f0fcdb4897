"""What commands print and write: JSON lines, messages, progress, and checks of output paths."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from beholder.errors import InvalidSetting, MissingExtra

Item = TypeVar("Item")
NEEDED_BY_SUFFIX = {".png": ("matplotlib", "plotting", "plot"), ".parquet": ("pyarrow", "writing Parquet", "parquet")}


def escape_unencodable() -> None:
    """Let standard output and error escape what their encoding can't represent, and standard input replace it."""
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            stream.reconfigure(errors=errors)  # type: ignore[union-attr]


def print_json(row: dict[str, Any]) -> None:
    """Print one JSON line to standard output."""
    from beholder.text.json_lines import json_line

    line = json_line(row)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        import json

        line = json.dumps(row)  # in ASCII, so that nothing has to be replaced
    print(line, flush=True)


def printable(name: str) -> str:
    """Return the name of a picture with control characters and undecodable bytes escaped."""
    from beholder.pictures.read import display_name

    return display_name(name, 0)


def print_message(text: str) -> None:
    """Print one line to standard error."""
    print(f"beholder: {text}", file=sys.stderr)


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Print each warning once, to standard error, as a plain sentence."""
    printed: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in printed:
            printed.add(str(message))
            print_message(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def track(items: Iterable[Item], description: str, total: int) -> Iterable[Item]:
    """Return the same items, with a progress bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    disable = not console.is_terminal or total < 2
    return track(items, description, total, console=console, transient=True, disable=disable)


def check_output(option: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse an output file that can't be written, before anything is computed.

    Args:
        option: the option that names the file, for messages.
        path: the file; None if the option is not given.
        suffixes: what the name may end in; anything by default.

    Raises:
        InvalidSetting: the name ends otherwise or is that of a folder, or there is no such folder, or it is read-only.
        MissingExtra: a package is needed to write such a file.
    """
    from importlib.util import find_spec

    if path is None:
        return
    suffix = path.suffix.lower()
    if suffixes and suffix not in suffixes:
        raise InvalidSetting(f"{option} {path}: the file's name must end in {' or '.join(suffixes)}")
    if suffixes and suffix in NEEDED_BY_SUFFIX:
        package, what, extra = NEEDED_BY_SUFFIX[suffix]
        if find_spec(package) is None:
            raise MissingExtra(what, extra)
    folder = path.absolute().parent
    if path.is_dir():
        raise InvalidSetting(f"{option} {path}: is a folder; name a file")
    if not folder.is_dir():
        raise InvalidSetting(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InvalidSetting(f"{option} {path}: can't be written: permission denied")


def check_output_folder(option: str, path: Path | None) -> None:
    """Refuse an output folder that can't be created or written, before anything is computed.

    Raises:
        InvalidSetting: it, or what it would be created in, is a file or is read-only.
    """
    if path is None:
        return
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InvalidSetting(f"{option} {path}: {existing} is a file; name a folder")
    if not os.access(existing, os.W_OK):
        raise InvalidSetting(f"{option} {path}: can't be written: permission denied")
