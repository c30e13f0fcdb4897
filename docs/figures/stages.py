"""The two trainings of a bridge: what is frozen, what learns, and what for."""

import textwrap
from pathlib import Path

from torch import nn

from drawing import FROZEN, GREY, LIT, TRAINED, Sheet, square
from seen import WRITTEN_ABOUT, Seen


def draw(seen: Seen, path: Path) -> None:
    """Draws it."""
    writer = seen.writer
    image = square(seen.photograph(WRITTEN_ABOUT))
    caption = "\n".join(textwrap.wrap(f"“{seen.captions[WRITTEN_ABOUT]}”", 30))
    sizes = {name: _millions(part) for name, part in (("tower", writer.image), ("language", writer.language.module))}
    words = writer.bridge.qformer.words
    own = sum(parameter.numel() for parameter in writer.bridge.parameters())
    shared = 0 if words is None else sum(parameter.numel() for parameter in words.parameters())
    bridge = f"{(own - shared) / 1e6:.0f} million"
    sheet = Sheet(7.4, 4.3)

    sheet.words(0.1, 0.15, "Stage 1: the queries learn to look for what words are about", ha="left", fontweight="bold")
    sheet.picture(image, 0.1, 0.4, 0.95, 0.95)
    sheet.arrow((1.1, 0.87), (1.35, 0.87))
    sheet.box(1.4, 0.6, 1.05, 0.55, f"picture tower\n{sizes['tower']}", FROZEN, 7.5)
    sheet.arrow((2.45, 0.87), (2.75, 0.87))
    sheet.box(2.8, 0.55, 1.35, 0.65, f"Q-Former\n{bridge}", TRAINED, 8)
    sheet.words(2.45, 1.72, caption, 7.5, color=LIT)
    sheet.arrow((3.47, 1.5), (3.47, 1.2))
    for y, title, said in (
        (0.4, "contrast", "the caption's own picture among all of a batch"),
        (0.88, "matching", "do these two fit, yes or no?"),
        (1.36, "generation", "write the caption, looking through the queries"),
    ):
        sheet.arrow((4.15, 0.87), (4.4, 0.87), (4.4, y + 0.18), (4.6, y + 0.18))
        sheet.box(4.65, y, 0.85, 0.36, title, TRAINED, 7.5)
        sheet.words(5.57, y + 0.18, "\n".join(textwrap.wrap(said, 28)), 7, ha="left")

    y = 2.3
    sheet.words(0.1, y, "Stage 2: what they see becomes words of a language model", ha="left", fontweight="bold")
    sheet.picture(image, 0.1, y + 0.25, 0.95, 0.95)
    sheet.arrow((1.1, y + 0.72), (1.35, y + 0.72))
    sheet.box(1.4, y + 0.45, 1.05, 0.55, f"picture tower\n{sizes['tower']}", FROZEN, 7.5)
    sheet.arrow((2.45, y + 0.72), (2.75, y + 0.72))
    sheet.box(2.8, y + 0.4, 0.95, 0.65, f"Q-Former\n{bridge}", TRAINED, 8)
    sheet.arrow((3.75, y + 0.72), (3.95, y + 0.72))
    sheet.box(4.0, y + 0.45, 0.5, 0.55, "linear\nlayer", TRAINED, 7.5)
    sheet.arrow((4.5, y + 0.72), (4.7, y + 0.72))
    sheet.box(4.75, y + 0.4, 1.15, 0.65, f"language model\n{sizes['language']}", FROZEN, 7.5)
    sheet.arrow((5.9, y + 0.72), (6.05, y + 0.72))
    sheet.words(6.1, y + 0.72, "\n".join(textwrap.wrap(seen.caption(WRITTEN_ABOUT), 17)), 8, ha="left", color=LIT)
    sheet.words(5.32, y + 1.42, f"“{writer.loaded.prompts.caption}”", 8, color=LIT)
    sheet.arrow((5.32, y + 1.32), (5.32, y + 1.05))

    sheet.box(0.1, 4.02, 0.2, 0.16, "", FROZEN)
    sheet.words(0.37, 4.1, "frozen", 7, ha="left", color=GREY)
    sheet.box(0.95, 4.02, 0.2, 0.16, "", TRAINED)
    sheet.words(1.22, 4.1, "trained; the figures are numbers of parameters", 7, ha="left", color=GREY)
    sheet.save(path)


def _millions(part: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in part.parameters()) / 1e6:.0f} million"
