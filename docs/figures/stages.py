"""The two stages of training a bridge: what is frozen, what is trained, and the objectives."""

import textwrap
from pathlib import Path

from torch import nn

from computed import CAPTIONED, Computed
from drawing import FROZEN, GRAY, LIT, TRAINED, Canvas, square


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    model = computed.vision_language
    image = square(computed.photograph(CAPTIONED))
    caption = "\n".join(textwrap.wrap(f"“{computed.captions[CAPTIONED]}”", 30))
    sizes = {name: _millions(part) for name, part in (("tower", model.image), ("language", model.language.module))}
    words = model.bridge.qformer.word_embeddings
    own = sum(parameter.numel() for parameter in model.bridge.parameters())
    shared = 0 if words is None else sum(parameter.numel() for parameter in words.parameters())
    bridge = f"{(own - shared) / 1e6:.0f} million"
    canvas = Canvas(7.4, 4.3)

    canvas.text(0.1, 0.15, "Stage 1: the queries learn to extract what text describes", ha="left", fontweight="bold")
    canvas.picture(image, 0.1, 0.4, 0.95, 0.95)
    canvas.arrow((1.1, 0.87), (1.35, 0.87))
    canvas.box(1.4, 0.6, 1.05, 0.55, f"image encoder\n{sizes['tower']}", FROZEN, 7.5)
    canvas.arrow((2.45, 0.87), (2.75, 0.87))
    canvas.box(2.8, 0.55, 1.35, 0.65, f"Q-Former\n{bridge}", TRAINED, 8)
    canvas.text(2.45, 1.72, caption, 7.5, color=LIT)
    canvas.arrow((3.47, 1.5), (3.47, 1.2))
    for y, title, note in (
        (0.4, "contrast", "find the caption's image within the batch"),
        (0.88, "matching", "do image and caption match, yes or no?"),
        (1.36, "generation", "generate the caption from the queries alone"),
    ):
        canvas.arrow((4.15, 0.87), (4.4, 0.87), (4.4, y + 0.18), (4.6, y + 0.18))
        canvas.box(4.65, y, 0.85, 0.36, title, TRAINED, 7.5)
        canvas.text(5.57, y + 0.18, "\n".join(textwrap.wrap(note, 28)), 7, ha="left")

    y = 2.3
    canvas.text(0.1, y, "Stage 2: their output becomes soft prompts of a language model", ha="left", fontweight="bold")
    canvas.picture(image, 0.1, y + 0.25, 0.95, 0.95)
    canvas.arrow((1.1, y + 0.72), (1.35, y + 0.72))
    canvas.box(1.4, y + 0.45, 1.05, 0.55, f"image encoder\n{sizes['tower']}", FROZEN, 7.5)
    canvas.arrow((2.45, y + 0.72), (2.75, y + 0.72))
    canvas.box(2.8, y + 0.4, 0.95, 0.65, f"Q-Former\n{bridge}", TRAINED, 8)
    canvas.arrow((3.75, y + 0.72), (3.95, y + 0.72))
    canvas.box(4.0, y + 0.45, 0.5, 0.55, "linear\nlayer", TRAINED, 7.5)
    canvas.arrow((4.5, y + 0.72), (4.7, y + 0.72))
    canvas.box(4.75, y + 0.4, 1.15, 0.65, f"language model\n{sizes['language']}", FROZEN, 7.5)
    canvas.arrow((5.9, y + 0.72), (6.05, y + 0.72))
    canvas.text(6.1, y + 0.72, "\n".join(textwrap.wrap(computed.caption(CAPTIONED), 17)), 8, ha="left", color=LIT)
    canvas.text(5.32, y + 1.42, f"“{model.loaded.prompts.caption}”", 8, color=LIT)
    canvas.arrow((5.32, y + 1.32), (5.32, y + 1.05))

    canvas.box(0.1, 4.02, 0.2, 0.16, "", FROZEN)
    canvas.text(0.37, 4.1, "frozen", 7, ha="left", color=GRAY)
    canvas.box(0.95, 4.02, 0.2, 0.16, "", TRAINED)
    canvas.text(1.22, 4.1, "trained; numbers of parameters", 7, ha="left", color=GRAY)
    canvas.save(path)


def _millions(part: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in part.parameters()) / 1e6:.0f} million"
