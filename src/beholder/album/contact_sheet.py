"""A contact sheet: thumbnails in one HTML file. Names, captions and queries are escaped: text, never markup."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from beholder.album.thumbnail import thumbnail
from beholder.files import reported, write_text
from beholder.pictures.video import VideoFrame
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

Row = tuple[str | Path | VideoFrame, Sequence[str]]  # a picture's source, and lines of text below it


def write_contact_sheet(path: Path, title: str, sections: Iterable[tuple[str, Sequence[Row]]]) -> None:
    """Write a page of sections with a thumbnail and some lines of text for each picture.

    A picture that can't be read any more is shown by its text alone.

    Args:
        path: of the file, which is written atomically.
        title: of the page.
        sections: headings, each with its pictures.

    Raises:
        WriteFailed: the file can't be written.
    """
    parts = []
    for heading, rows in sections:
        figures = "\n".join(map_ahead(_figure, rows, AHEAD))
        parts.append(f'<h2>{_text(heading)}</h2>\n<div class="sheet">\n{figures}\n</div>')
    with reported(path):
        write_text(path, PAGE.format(title=_text(title), side=SIDE, sections="\n".join(parts)))


def _figure(row: Row) -> str:
    source, lines = row
    caption = "<br>".join(_text(line) for line in lines)
    data = thumbnail(source, SIDE, 2 * SIDE)
    shown = "" if data is None else f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _text(text: str) -> str:
    return escape(readable(text))


def readable(text: str) -> str:
    """Return text for a page; bytes of a file name that are not valid UTF-8 are escaped."""
    return os.fsencode(text).decode("utf-8", "backslashreplace") if _is_odd(text) else text


def _is_odd(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
