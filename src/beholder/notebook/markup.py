"""Pictures and words as HTML that can't hold any markup but ours."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO

from beholder.pictures.read import ImageSource, display_name, read_picture

ASKED = "margin:.3em 0;text-align:right;font-weight:600"
SAID = "margin:.3em 0"


def small(picture: ImageSource, index: int, side: int) -> bytes:
    """A JPEG of a picture that fits into a square.

    Raises:
        PictureError: it can't be used.
    """
    image = read_picture(picture, name=display_name(picture, index), reduce_to=side).copy()
    image.thumbnail((side, side))
    file = BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()


def tag(jpeg: bytes, words: str, style: str) -> str:
    """An ``img`` with its bytes inside."""
    data = base64.b64encode(jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{safe(words)}" style="{style}">'


def safe(words: object) -> str:
    """Words as text, whatever they look like."""
    return escape(str(words), quote=True)


def turns(history: Iterable[tuple[str, str]]) -> str:
    """Questions and answers, one below the other; an answer that has no word yet is an ellipsis."""
    return "".join(
        f'<p style="{ASKED}">{safe(question)}</p><p style="{SAID}">{safe(answer) or "…"}</p>'
        for question, answer in history
    )


def shares(ranked: Iterable[tuple[str, float]]) -> str:
    """Words with a bar each for a share between 0 and 1."""
    bar = "min-width:1px;height:.7em;background:#1f6fb2"
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:400">{safe(word)}</th>'
        f'<td style="width:12rem"><div style="width:{share:.1%};{bar}"></div></td>'
        f'<td style="font-variant-numeric:tabular-nums">{share:.0%}</td></tr>'
        for word, share in ranked
    )
    return f"<table>{rows}</table>"
