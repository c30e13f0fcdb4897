"""Thumbnails in terminals that can show pictures: kitty's and iTerm's protocols, and sixel. In others, nothing.

Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/, https://iterm2.com/documentation-images.html, and the
VT330/VT340 programmer reference manual, chapter 14 (sixel; device attribute 4 says that a terminal has it).
"""

from __future__ import annotations

import base64
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

SIDE = 160  # pixels
CHUNK = 4096  # bytes of base64 in one of kitty's commands
COLOURS = 255
PATIENCE = 0.3  # seconds in which a terminal says what it can; those that can say so at once

Show = Callable[["Image.Image"], str]  # a picture as the characters that show it


def shower(environment: Mapping[str, str] = os.environ) -> Show | None:
    """What makes pictures for the terminal that standard output is; None if it is none, or can show none."""
    if not sys.stdout.isatty():
        return None
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term == "dumb" or "NO_COLOR" in environment:
        return None
    inside_another = term.startswith(("screen", "tmux"))  # which passes on nothing but sixel, if that
    if not inside_another:
        if "kitty" in term or "KITTY_WINDOW_ID" in environment or program == "ghostty" or "ghostty" in term:
            return kitty
        if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
            return iterm
    return sixel if "4" in device_attributes() else None


def show_thumbnail(show: Show | None, path: str) -> None:
    """A small one of a picture on standard output; nothing where it can't be shown, or can't be read any more."""
    if show is None:
        return
    from io import BytesIO

    from PIL import Image

    from beholder.album.thumbnail import thumbnail

    data = thumbnail(path, SIDE, 2 * SIDE)
    if data is not None:
        sys.stdout.write(show(Image.open(BytesIO(data))))
        sys.stdout.flush()


def kitty(image: Image.Image) -> str:
    """By kitty's graphics protocol: a PNG in pieces, shown where the cursor is."""
    data = base64.b64encode(_file(image, "PNG")).decode()
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    made = []
    for number, piece in enumerate(pieces):
        first = "a=T,f=100,q=2," if number == 0 else ""
        made.append(f"\x1b_G{first}m={int(number < len(pieces) - 1)};{piece}\x1b\\")
    return "".join(made) + "\n"


def iterm(image: Image.Image) -> str:
    """By iTerm's protocol of inline images, which WezTerm has, too."""
    data = _file(image, "JPEG")
    size = f"size={len(data)};width={image.width}px;height={image.height}px"
    return f"\x1b]1337;File=inline=1;{size}:{base64.b64encode(data).decode()}\x07\n"


def sixel(image: Image.Image) -> str:
    """As sixels: bands of six rows, and in each one line for each of its colours."""
    import numpy as np

    reduced = image.convert("RGB").quantize(COLOURS)
    indices = np.asarray(reduced)  # (H, W)
    palette = np.asarray(reduced.getpalette()[: 3 * COLOURS]).reshape(-1, 3)  # type: ignore[index]
    height, width = indices.shape
    made = [f'\x1bP0;1q"1;1;{width};{height}']  # pixels are square; what is not drawn stays as it is
    for colour in np.unique(indices).tolist():
        red, green, blue = (round(100 * int(part) / 255) for part in palette[colour])
        made.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        weights = (1 << np.arange(len(band)))[:, None]
        lines = []
        for colour in np.unique(band).tolist():
            bits = ((band == colour) * weights).sum(axis=0)  # (W,)
            lines.append(f"#{colour}{_run_lengths(bits.tolist())}")
        made.append("$".join(lines) + "-")  # $ goes back to the left, - down to the next band
    return "".join(made) + "\x1b\\\n"


def device_attributes() -> list[str]:
    """What the terminal says that it can do (its primary device attributes); nothing where it says nothing."""
    try:
        import termios
        import tty

        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):
        return []
    try:
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal)
            os.write(terminal, b"\x1b[c")
            answer, until = b"", time.monotonic() + PATIENCE
            while not answer.endswith(b"c") and (left := until - time.monotonic()) > 0:
                if select.select([terminal], [], [], left)[0]:
                    answer += os.read(terminal, 64)
        finally:
            termios.tcsetattr(terminal, termios.TCSANOW, before)
    except OSError:
        return []
    finally:
        os.close(terminal)
    found = re.search(rb"\x1b\[\?([\d;]*)c", answer)
    return found[1].decode().split(";") if found else []


def _run_lengths(bits: list[int]) -> str:
    made, start = [], 0
    while start < len(bits):
        end = start
        while end < len(bits) and bits[end] == bits[start]:
            end += 1
        letter, count = chr(63 + bits[start]), end - start
        made.append(f"!{count}{letter}" if count > 3 else letter * count)
        start = end
    return "".join(made)


def _file(image: Image.Image, kind: str) -> bytes:
    from io import BytesIO

    file = BytesIO()
    image.convert("RGB").save(file, kind, quality=85)
    return file.getvalue()
