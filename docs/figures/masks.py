"""The Q-Former's self-attention masks for the three objectives of stage 1."""

from pathlib import Path

import torch

from beholder.models.qformer import self_attention_mask
from computed import Computed
from drawing import GRAY, INK, Canvas

SENTENCE = "a dog runs fast"
QUERIES = 4  # of mini's sixteen, so that the cells can be computed
TASKS = (
    ("unimodal", "Contrast", "unimodal: queries and text\ndo not see each other"),
    ("bimodal", "Matching", "bimodal: all tokens\nattend to all"),
    ("multimodal_causal", "Generation", "multimodal causal: text attends to\nqueries and preceding text"),
)
SIDE = 0.2


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    tokenizer = computed.vision_language.loaded.tokenizer
    pieces = [piece.strip("<>") for piece in tokenizer.tokenize(SENTENCE)]
    names = [*(f"q{number + 1}" for number in range(QUERIES)), *pieces]
    ids = torch.from_numpy(tokenizer([SENTENCE]).ids)
    canvas = Canvas(7.4, 3.15)
    size = SIDE * len(names)
    for number, (task, title, note) in enumerate(TASKS):
        x, y = 0.62 + number * (size + 0.2), 0.8
        allowed = self_attention_mask(QUERIES, ids, None, task)[0, 0].float().numpy()  # type: ignore[arg-type]
        canvas.text(x + size / 2, 0.15, title, 8.5, fontweight="bold")
        canvas.cells(allowed * 0.75 + 0.06, x, y, SIDE)
        for place, name in enumerate(names):
            canvas.text(x + (place + 0.5) * SIDE, y - 0.06, name, 6.5, rotation=90, va="bottom")
            if number == 0:
                canvas.text(x - 0.06, y + (place + 0.5) * SIDE, name, 6.5, ha="right")
        canvas.axes.plot([x, x + size], [y + QUERIES * SIDE] * 2, color=INK, linewidth=0.8)
        canvas.axes.plot([x + QUERIES * SIDE] * 2, [y, y + size], color=INK, linewidth=0.8)
        canvas.text(x + size / 2, y + size + 0.2, note, 7, color=GRAY)
    canvas.save(path)
