"""Thumbnails in terminals that can show pictures: the kitty and iTerm protocols, and sixel. In others, nothing.

The package textual-image is not used: it lacks iTerm's protocol, prints blocks of color where there are no graphics,
queries the terminal when it is imported, and may swallow a key that is pressed meanwhile.

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
    from pathlib import Path

    from PIL import Image

    from beholder.pictures.video import VideoFrame

SIDE = 160  # pixels
CHUNK = 4096  # bytes of base64 per command of the kitty protocol
MAX_COLORS = 255
TIMEOUT = 0.3  # seconds to wait for the terminal's attributes; terminals that answer do so at once

Show = Callable[["Image.Image"], str]  # from a picture to the escape sequence that shows it


def select_protocol(environment: Mapping[str, str] = os.environ) -> Show | None:
    """Return the graphics protocol of the terminal; None if standard output is not a terminal, or it has none."""
    if not sys.stdout.isatty():
        return None
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term == "dumb" or "NO_COLOR" in environment:
        return None
    inside_another = term.startswith(("screen", "tmux"))  # which passes on sixel at most
    if not inside_another:
        if "kitty" in term or "KITTY_WINDOW_ID" in environment or program == "ghostty" or "ghostty" in term:
            return kitty
        if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
            return iterm
    return sixel if "4" in device_attributes() else None


def show_thumbnail(show: Show | None, source: str | Path | VideoFrame) -> None:
    """Print a thumbnail to standard output; nothing if it can't be shown, or if the file can't be read any more."""
    if show is None:
        return
    from io import BytesIO

    from PIL import Image

    from beholder.album.thumbnail import thumbnail

    data = thumbnail(source, SIDE, 2 * SIDE)
    if data is not None:
        sys.stdout.write(show(Image.open(BytesIO(data))))
        sys.stdout.flush()


def kitty(image: Image.Image) -> str:
    """Encode for the kitty graphics protocol: a PNG in chunks, shown at the cursor."""
    data = base64.b64encode(_file(image, "PNG")).decode()
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    made = []
    for number, piece in enumerate(pieces):
        first = "a=T,f=100,q=2," if number == 0 else ""
        made.append(f"\x1b_G{first}m={int(number < len(pieces) - 1)};{piece}\x1b\\")
    return "".join(made) + "\n"


def iterm(image: Image.Image) -> str:
    """Encode for iTerm's inline images protocol, which WezTerm supports, too."""
    data = _file(image, "JPEG")
    size = f"size={len(data)};width={image.width}px;height={image.height}px"
    return f"\x1b]1337;File=inline=1;{size}:{base64.b64encode(data).decode()}\x07\n"


def sixel(image: Image.Image) -> str:
    """Encode as sixels: bands of six rows, each with one line per color."""
    import numpy as np

    reduced = image.convert("RGB").quantize(MAX_COLORS)
    indices = np.asarray(reduced)  # (H, W)
    palette = np.asarray(reduced.getpalette()[: 3 * MAX_COLORS]).reshape(-1, 3)  # type: ignore[index]
    height, width = indices.shape
    made = [f'\x1bP0;1q"1;1;{width};{height}']  # square pixels; undrawn ones keep the background
    for color in np.unique(indices).tolist():
        red, green, blue = (round(100 * int(part) / 255) for part in palette[color])
        made.append(f"#{color};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        weights = (1 << np.arange(len(band)))[:, None]
        lines = []
        for color in np.unique(band).tolist():
            bits = ((band == color) * weights).sum(axis=0)  # (W,)
            lines.append(f"#{color}{_run_lengths(bits.tolist())}")
        made.append("$".join(lines) + "-")  # $ goes back to the left, - down to the next band
    return "".join(made) + "\x1b\\\n"


def device_attributes() -> list[str]:
    """Return the terminal's primary device attributes; none if it does not answer."""
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
            answer, until = b"", time.monotonic() + TIMEOUT
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
