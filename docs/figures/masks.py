"""Who may look at whom in the Q-Former, for each of stage 1's three tasks."""

from pathlib import Path

import torch

from beholder.models.qformer import self_attention_mask
from drawing import GREY, INK, Sheet
from seen import Seen

SENTENCE = "a dog runs fast"
QUERIES = 4  # of mini's sixteen, so that the cells can be seen
TASKS = (
    ("contrast", "Contrast", "queries and words\nnever see each other"),
    ("matching", "Matching", "all see all"),
    ("generation", "Generation", "a word sees the queries\nand the words before it"),
)
SIDE = 0.2


def draw(seen: Seen, path: Path) -> None:
    """Draws it."""
    tokenizer = seen.writer.loaded.tokenizer
    pieces = [piece.strip("<>") for piece in tokenizer.show(SENTENCE)]
    names = [*(f"q{number + 1}" for number in range(QUERIES)), *pieces]
    ids = torch.from_numpy(tokenizer([SENTENCE]).ids)
    sheet = Sheet(7.4, 3.15)
    size = SIDE * len(names)
    for number, (task, title, said) in enumerate(TASKS):
        x, y = 0.62 + number * (size + 0.2), 0.8
        may = self_attention_mask(QUERIES, ids, None, task)[0, 0].float().numpy()  # type: ignore[arg-type]
        sheet.words(x + size / 2, 0.15, title, 8.5, fontweight="bold")
        sheet.cells(may * 0.75 + 0.06, x, y, SIDE)
        for place, name in enumerate(names):
            sheet.words(x + (place + 0.5) * SIDE, y - 0.06, name, 6.5, rotation=90, va="bottom")
            if number == 0:
                sheet.words(x - 0.06, y + (place + 0.5) * SIDE, name, 6.5, ha="right")
        sheet.axes.plot([x, x + size], [y + QUERIES * SIDE] * 2, color=INK, linewidth=0.8)
        sheet.axes.plot([x + QUERIES * SIDE] * 2, [y, y + size], color=INK, linewidth=0.8)
        sheet.words(x + size / 2, y + size + 0.2, said, 7, color=GREY)
    sheet.save(path)
