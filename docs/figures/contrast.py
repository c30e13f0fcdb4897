"""The matrix that contrast trains on: photographs against sentences, as cosines and as a choice."""

import textwrap
from pathlib import Path

import numpy as np

from drawing import GREY, Sheet, square
from seen import PHOTOGRAPHS, Seen

NAMES = ("cat", "horses", "chickens", "duck", "clownfish", "coffee", "bridge", "machu-picchu")
SIDE = 0.31  # of a cell, in inches


def draw(seen: Seen, path: Path) -> None:
    """Draws it."""
    files = [f"{name}.jpg" for name in NAMES]
    captions = [seen.captions[file] for file in files]
    images = seen.encoder.embed_images([PHOTOGRAPHS / file for file in files])
    texts = seen.encoder.embed_texts(captions)
    cosines = texts @ images.T  # a row for each sentence
    scale = seen.encoder.towers.scale
    odds = np.exp(scale * (cosines - cosines.max(1, keepdims=True)))
    shares = odds / odds.sum(1, keepdims=True)
    size = len(NAMES) * SIDE
    sheet = Sheet(7.4, 3.5)
    for y, caption in zip(np.arange(len(captions)) * SIDE + 0.7, captions, strict=True):
        lines = textwrap.wrap(caption, 34, max_lines=2, placeholder=" …")
        sheet.words(2.0, y + SIDE / 2, "\n".join(lines), 6.5, ha="right")
    for left, values, title in (
        (2.1, cosines, "cosines"),
        (2.1 + size + 0.2, shares, f"softmax of {scale:.1f} × cosine, by row"),
    ):
        sheet.words(left + size / 2, 0.15, title, 8, fontweight="bold")
        for column, file in enumerate(files):
            image = square(seen.photograph(file)).resize((128, 128))
            sheet.picture(image, left + column * SIDE + 0.01, 0.35, SIDE - 0.02, SIDE - 0.02)
        words = [[_short(value) for value in row] for row in values]
        shade = (values - values.min()) / (values.max() - values.min())
        sheet.cells(shade, left, 0.7, SIDE, words, 6.3)
        for place in range(len(files)):
            sheet.frame(left + place * SIDE, 0.7 + place * SIDE, SIDE, SIDE, line=1.2)
    sheet.words(
        2.1,
        3.35,
        "Framed: a sentence with its own photograph. Training raises these and lowers all others.",
        7,
        ha="left",
        color=GREY,
    )
    sheet.save(path)


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")
