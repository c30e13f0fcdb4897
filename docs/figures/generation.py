"""How `mini`'s image generator draws: from noise to a picture, with more and more guidance, between two, and sums."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

from beholder import ImageGenerator
from computed import Computed
from drawing import GRAY, Canvas

PROMPT, SEED = "a smiling cat with heart eyes", 7
SHOWN_STEPS = (1, 3, 6, 10, 15, 20, 25)
GUIDANCE = (0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0)
ENDS = ("a cat", "a smiling face")
STARTS = (("a red heart", "red", "blue"), ("a castle", "day", "night"), ("a smiling face", "smiling", "crying"))
SIDE, GAP, LEFT = 0.82, 0.08, 1.35  # inches


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    generator = computed.generator
    canvas = Canvas(LEFT + 7 * (SIDE + GAP) + 0.1, 5.3)
    row(canvas, 0.3, "noise to picture", f"“{PROMPT}”", [*steps(generator).items()])
    guided = [(f"{scale:g}", generate(generator, PROMPT, guidance=scale)) for scale in GUIDANCE]
    row(canvas, 1.55, "guidance", "the same seed", guided)
    row(canvas, 2.8, "interpolation", f"“{ENDS[0]}” to “{ENDS[1]}”", between(generator))
    for number, (start, minus, plus) in enumerate(STARTS):
        drawn = generate(generator, start)
        result = generate(generator, plus, like=drawn, minus=minus)
        x = LEFT + number * 2.1 * (SIDE + GAP)
        canvas.picture(drawn, x, 4.15, SIDE, SIDE)
        canvas.text(x + SIDE / 2, 4.15 + SIDE + 0.1, start, 7, color=GRAY)
        canvas.picture(result, x + SIDE + GAP, 4.15, SIDE, SIDE)
        canvas.text(x + 1.5 * SIDE + GAP, 4.15 + SIDE + 0.1, f"− {minus} + {plus}", 7, color=GRAY)
    canvas.text(0.1, 4.15 + SIDE / 2, "arithmetic", ha="left", fontweight="bold")
    canvas.save(path)


def row(canvas: Canvas, y: float, name: str, detail: str, pictures: list[tuple[str, Image.Image]]) -> None:
    """Draw a row of pictures with what is written below each."""
    canvas.text(0.1, y + SIDE / 2 - 0.08, name, ha="left", fontweight="bold")
    canvas.text(0.1, y + SIDE / 2 + 0.02, textwrap.fill(detail, 22), 6.5, ha="left", va="top")
    for number, (label, picture) in enumerate(pictures):
        x = LEFT + number * (SIDE + GAP)
        canvas.picture(picture, x, y, SIDE, SIDE)
        canvas.text(x + SIDE / 2, y + SIDE + 0.1, label, 7, color=GRAY)


def generate(generator: ImageGenerator, text: str | None = None, **options: object) -> Image.Image:
    """Draw a picture with the figure's seed."""
    return generator.generate(text, seed=SEED, **options)[0]


def steps(generator: ImageGenerator) -> dict[str, Image.Image]:
    """Return the picture after some of the steps."""
    seen: dict[str, Image.Image] = {}

    def on_step(step: int, steps: int, picture: object) -> None:
        if step in SHOWN_STEPS:
            seen[f"step {step}"] = picture()  # type: ignore[operator]

    for _ in generator.stream(PROMPT, seed=SEED, steps=SHOWN_STEPS[-1], on_step=on_step):
        pass
    return seen


def between(generator: ImageGenerator) -> list[tuple[str, Image.Image]]:
    """Return pictures of the embeddings between those of two drawings, on the great circle (slerp)."""
    encoder = generator.backend.encoder
    if encoder is None:
        raise TypeError("mini's generator has a dual encoder")
    left, right = encoder.embed_images([generate(generator, text) for text in ENDS])
    angle = np.arccos(np.clip(left @ right, -1, 1))
    shares = np.linspace(0, 1, 7)
    mixed = [(np.sin((1 - share) * angle) * left + np.sin(share * angle) * right) / np.sin(angle) for share in shares]
    return [
        (f"{share:.2f}", generate(generator, embedding=embedding))
        for share, embedding in zip(shares, mixed, strict=True)
    ]
