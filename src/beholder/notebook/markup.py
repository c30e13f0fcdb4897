"""Pictures and escaped text as HTML."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO

from beholder.pictures.read import ImageSource, display_name, read_picture

QUESTION_STYLE = "margin:.3em 0;text-align:right;font-weight:600"
ANSWER_STYLE = "margin:.3em 0"


def thumbnail_jpeg(picture: ImageSource, index: int, side: int) -> bytes:
    """Return a JPEG thumbnail with sides of at most ``side`` pixels.

    Raises:
        PictureError: the picture can't be used.
    """
    image = read_picture(picture, name=display_name(picture, index), reduce_to=side).copy()
    image.thumbnail((side, side))
    file = BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()


def img_tag(jpeg: bytes, words: str, style: str) -> str:
    """Return an ``img`` element with an embedded JPEG."""
    data = base64.b64encode(jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape_html(words)}" style="{style}">'


def escape_html(words: object) -> str:
    """Return the value as escaped text."""
    return escape(str(words), quote=True)


def conversation_html(history: Iterable[tuple[str, str]]) -> str:
    """Return questions and answers, one below the other; an answer without a word yet is an ellipsis."""
    return "".join(
        f'<p style="{QUESTION_STYLE}">{escape_html(question)}</p>'
        f'<p style="{ANSWER_STYLE}">{escape_html(answer) or "…"}</p>'
        for question, answer in history
    )


def probability_table(ranked: Iterable[tuple[str, float]]) -> str:
    """Return a table of texts, each with a bar for its probability."""
    bar = "min-width:1px;height:.7em;background:#1f6fb2"
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:400">{escape_html(word)}</th>'
        f'<td style="width:12rem"><div style="width:{share:.1%};{bar}"></div></td>'
        f'<td style="font-variant-numeric:tabular-nums">{share:.0%}</td></tr>'
        for word, share in ranked
    )
    return f"<table>{rows}</table>"
