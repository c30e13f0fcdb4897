"""Thumbnails in terminals: output is decoded as a terminal would, and an unsupported terminal gets nothing."""

import base64
import io
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_album import draw

from beholder.cli import terminal

RUN = "from beholder.cli.main import run; run()"


@pytest.fixture
def image(tmp_path: Path) -> Image.Image:
    return Image.open(draw(tmp_path / "a.png", 3, (47, 31))).convert("RGB")


def assert_similar(one: Image.Image, other: Image.Image, mean: float) -> None:
    assert one.size == other.size
    assert np.abs(np.asarray(one.convert("RGB"), float) - np.asarray(other, float)).mean() < mean


def read_kitty(text: str) -> Image.Image:
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "f=100" in pieces[0][0] and "a=T" in pieces[0][0] and all(len(data) <= 4096 for _, data in pieces)
    assert [re.search(r"m=(\d)", keys)[1] for keys, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
    return Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in pieces))))


def read_iterm(text: str) -> Image.Image:
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);width=\d+px;height=\d+px:([^\x07]+)\x07\n", text)
    data = base64.b64decode(found[2])
    assert len(data) == int(found[1])
    return Image.open(io.BytesIO(data))


def read_sixel(text: str) -> Image.Image:
    found = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\\n', text, re.S)
    width, height = int(found[1]), int(found[2])
    drawn = np.zeros((height + 6, width, 3))
    pixels_set = np.zeros((height + 6, width), bool)
    palette: dict[int, np.ndarray] = {}
    colour, x, y = 0, 0, 0
    for token in re.findall(r"#\d+(?:;2;\d+;\d+;\d+)?|!\d+.|[$-]|[?-~]", found[3]):
        if token.startswith("#"):
            number, *rest = token[1:].split(";")
            colour = int(number)
            if rest:
                palette[colour] = np.array([int(part) for part in rest[1:]]) * 2.55
        elif token == "$":
            x = 0
        elif token == "-":
            x, y = 0, y + 6
        else:
            count, letter = (int(token[1:-1]), token[-1]) if token.startswith("!") else (1, token)
            for row in range(6):
                if (ord(letter) - 63) >> row & 1:
                    drawn[y + row, x : x + count] = palette[colour]
                    pixels_set[y + row, x : x + count] = True
            x += count
    assert pixels_set[:height].all() and not pixels_set[height:].any()
    return Image.fromarray(drawn[:height].round().clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("write", "read", "mean"),
    [(terminal.kitty, read_kitty, 0.1), (terminal.iterm, read_iterm, 6), (terminal.sixel, read_sixel, 9)],
    ids=["kitty", "iTerm", "sixel"],
)
def test_the_escape_sequence_decodes_to_the_picture(write, read, mean: float, image: Image.Image) -> None:
    assert_similar(read(write(image)), image, mean)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    assert read(write(noise)).size == noise.size  # more colors than the palette, and more than one chunk
    assert_similar(read(write(Image.new("RGB", (1, 1), (250, 10, 10)))), Image.new("RGB", (1, 1), (250, 10, 10)), 6)


@pytest.mark.parametrize(
    ("environment", "attributes", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "", terminal.kitty),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "", terminal.kitty),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "", terminal.iterm),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "", terminal.iterm),
        ({"TERM": "xterm-256color"}, "62;4;22", terminal.sixel),
        ({"TERM": "xterm-256color"}, "62;22", None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, "1;2", None),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app"}, "1;2;4", terminal.sixel),
        ({"TERM": "dumb"}, "62;4", None),
    ],
)
def test_each_terminal_gets_a_supported_protocol(
    environment: dict[str, str], attributes: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "device_attributes", lambda: attributes.split(";"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert terminal.select_protocol(environment) is expected
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert terminal.select_protocol(environment) is None


def in_a_terminal(order: list[str], answer: bytes) -> bytes:
    """Return what a program writes to a terminal that answers the device attributes query with ``answer``."""
    pty = pytest.importorskip("pty")
    process, terminal_end = pty.fork()
    if process == 0:
        os.environ["TERM"] = "xterm-256color"
        for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "NO_COLOR"):
            os.environ.pop(name, None)
        os.execv(order[0], order)
    written, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        if not select.select([terminal_end], [], [], 1)[0]:
            continue
        try:
            some = os.read(terminal_end, 65536)
        except OSError:  # closed
            break
        if not some:
            break
        if b"\x1b[c" in some and answer:
            os.write(terminal_end, answer)
        written += some
    assert os.waitpid(process, 0)[1] == 0
    return written


@pytest.mark.slow
@pytest.mark.parametrize("can", [True, False])
def test_search_shows_thumbnails_if_the_terminal_supports_them(can: bool, tiny_model: Path, tmp_path: Path) -> None:
    path = draw(tmp_path / "p" / "a.png", 1)
    index = [sys.executable, "-c", RUN, "index", str(path.parent), "--album", str(tmp_path / "album")]
    subprocess.run([*index, "--model", str(tiny_model)], check=True, capture_output=True)
    order = [sys.executable, "-c", RUN, "search", "a dog", "--nearest", "--album", str(tmp_path / "album")]
    written = in_a_terminal(order, b"\x1b[?62;4;22c" if can else b"\x1b[?62;22c")
    text = written.decode().replace("\r\n", "\n")
    found = re.search(r"\x1bP.*?\x1b\\\n", text, re.S)
    assert "a.png" in text and (found is not None) == can
    if found is not None:
        assert_similar(read_sixel(found[0]), Image.open(path).convert("RGB"), 12)
    assert b"\x1bP" not in subprocess.run(order, check=True, capture_output=True).stdout
