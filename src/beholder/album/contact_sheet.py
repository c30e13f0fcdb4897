"""A page of thumbnails in one HTML file. Names, captions and queries are text in it and never markup."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from beholder.album.thumbnail import thumbnail
from beholder.errors import WriteFailed
from beholder.runtime.pipeline import map_ahead

SIDE = 240  # pixels
AHEAD = 16

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem }}
.sheet {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.2rem }}
figure {{ margin: 0 }}
img {{ max-width: 100%; height: {side}px; object-fit: contain; object-position: left bottom }}
figcaption {{ font-size: .85em; overflow-wrap: anywhere }}
.quiet {{ opacity: .7 }}
</style>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""

Row = tuple[str, Sequence[str]]  # a picture's path, and lines about it


def write_contact_sheet(path: Path, title: str, sections: Iterable[tuple[str, Sequence[Row]]]) -> None:
    """Write a page with a part for each section, and in it a thumbnail and some lines for each picture.

    A picture that can't be read any more is shown by its name.

    Args:
        path: the file to write, in one piece.
        title: of the page.
        sections: heading, and the pictures under it.

    Raises:
        WriteFailed: the file can't be written.
    """
    parts = []
    for heading, rows in sections:
        figures = "\n".join(map_ahead(_figure, rows, AHEAD))
        parts.append(f'<h2>{_text(heading)}</h2>\n<div class="sheet">\n{figures}\n</div>')
    write_page(path, PAGE.format(title=_text(title), side=SIDE, sections="\n".join(parts)))


def write_page(path: Path, page: str) -> None:
    """Writes a page in one piece.

    Raises:
        WriteFailed: the file can't be written.
    """
    aside = path.with_name(f".{path.name}.writing")
    try:
        aside.write_text(page, "utf-8")
        aside.replace(path)
    except OSError as error:
        raise WriteFailed(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def _figure(row: Row) -> str:
    source, lines = row
    caption = "<br>".join(_text(line) for line in lines)
    data = thumbnail(source, SIDE, 2 * SIDE)
    shown = "" if data is None else f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _text(text: str) -> str:
    return escape(readable(text))


def readable(text: str) -> str:
    """Text for a page; bytes of a file's name that are no text are shown as what they are."""
    return os.fsencode(text).decode("utf-8", "backslashreplace") if _is_odd(text) else text


def _is_odd(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
