"""Two towers: a photograph and two sentences are embedded in one space and compared by their cosine."""

import textwrap
from pathlib import Path

import numpy as np

from computed import PHOTOGRAPHS, Computed
from drawing import FROZEN, GRAY, INK, LIT, TRAINED, Canvas, square

NAME = "cat.jpg"
SENTENCES = ("a brown cat looks at you", "two horses on a meadow")


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    encoder = computed.encoder
    image = encoder.embed_images([PHOTOGRAPHS / NAME])
    texts = encoder.embed_texts(SENTENCES)
    cosines, match = (image @ texts.T)[0], encoder.match(image, texts)[0]
    network = encoder.network.settings
    canvas = Canvas(7.0, 3.75)

    canvas.picture(square(computed.photograph(NAME)), 0.1, 0.2, 1.1, 1.1)
    picture_width, text_width = network.image.width, network.text.width
    for y, tower, width in ((0.45, "image encoder\nEfficientNet-Lite2", picture_width), *_texts(text_width)):
        canvas.arrow((1.85 if y > 1 else 1.25, y + 0.25), (2.2, y + 0.25))
        canvas.box(2.25, y, 1.15, 0.5, tower, FROZEN)
        canvas.arrow((3.4, y + 0.25), (3.95, y + 0.25))
        canvas.text(3.66, y + 0.12, f"{width:,}", 7, color=GRAY)
        canvas.box(4.0, y, 0.6, 0.5, "head", TRAINED)
        canvas.arrow((4.6, y + 0.25), (4.9, y + 0.25))
    for y, sentence in zip((1.65, 2.75), SENTENCES, strict=True):
        canvas.text(0.1, y + 0.1, f"“{sentence}”", 8.5, ha="left")
        pieces = encoder.loaded.tokenizer.tokenize(sentence)
        read = " | ".join(piece.strip("<>") for piece in pieces)
        canvas.text(0.1, y + 0.35, "\n".join(textwrap.wrap(read, 28)), 6.5, ha="left", va="top", color=GRAY)
    most = 0.12
    for y, vector in zip((0.45, 1.65, 2.75), (image[0], *texts), strict=True):
        canvas.values(vector.reshape(16, -1), 4.95, y - 0.05, 1.15, 0.6, most)
    canvas.text(5.52, 0.27, f"{image.shape[1]} dimensions each", 7, color=GRAY)

    for x, y, number in ((6.35, 1.65, 0), (6.65, 2.75, 1)):
        good = bool(np.argmax(cosines) == number)
        color, start = LIT if good else GRAY, 0.82 - 0.2 * number
        canvas.arrow((6.12, start), (x, start), (x, y + 0.25), (6.12, y + 0.25), color=color)
        score = f"cosine {cosines[number]:.2f}, match {match[number]:.0%}"
        canvas.text(5.52, y + 0.69, score, 8, color=color if good else INK)
    canvas.box(2.25, 3.5, 0.2, 0.16, "", FROZEN)
    canvas.text(2.5, 3.58, "frozen", 7, ha="left")
    canvas.box(3.05, 3.5, 0.2, 0.16, "", TRAINED)
    canvas.text(3.3, 3.58, "trained contrastively", 7, ha="left")
    canvas.save(path)


def _texts(width: int) -> list[tuple[float, str, int]]:
    return [(1.65, "text encoder\nMiniLM", width), (2.75, "text encoder\n(the same)", width)]
