"""The matrix that contrastive training works on: photographs against sentences, as cosines and as probabilities."""

import textwrap
from pathlib import Path

import numpy as np

from computed import PHOTOGRAPHS, Computed
from drawing import GRAY, Canvas, square

NAMES = ("cat", "horses", "chickens", "duck", "clownfish", "coffee", "bridge", "machu-picchu")
SIDE = 0.31  # of a cell, in inches


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    files = [f"{name}.jpg" for name in NAMES]
    captions = [computed.captions[file] for file in files]
    images = computed.encoder.embed_images([PHOTOGRAPHS / file for file in files])
    texts = computed.encoder.embed_texts(captions)
    cosines = texts @ images.T  # a row for each sentence
    scale = computed.encoder.towers.scale
    exponentials = np.exp(scale * (cosines - cosines.max(1, keepdims=True)))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    size = len(NAMES) * SIDE
    canvas = Canvas(7.4, 3.5)
    for y, caption in zip(np.arange(len(captions)) * SIDE + 0.7, captions, strict=True):
        lines = textwrap.wrap(caption, 34, max_lines=2, placeholder=" …")
        canvas.text(2.0, y + SIDE / 2, "\n".join(lines), 6.5, ha="right")
    for left, values, title in (
        (2.1, cosines, "cosines"),
        (2.1 + size + 0.2, probabilities, f"softmax of {scale:.1f} × cosine, by row"),
    ):
        canvas.text(left + size / 2, 0.15, title, 8, fontweight="bold")
        for column, file in enumerate(files):
            image = square(computed.photograph(file)).resize((128, 128))
            canvas.picture(image, left + column * SIDE + 0.01, 0.35, SIDE - 0.02, SIDE - 0.02)
        words = [[_short(value) for value in row] for row in values]
        shade = (values - values.min()) / (values.max() - values.min())
        canvas.cells(shade, left, 0.7, SIDE, words, 6.3)
        for place in range(len(files)):
            canvas.frame(left + place * SIDE, 0.7 + place * SIDE, SIDE, SIDE, line=1.2)
    canvas.text(
        2.1,
        3.35,
        "Framed: matching pairs. Training raises these cosines and lowers all others.",
        7,
        ha="left",
        color=GRAY,
    )
    canvas.save(path)


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")
