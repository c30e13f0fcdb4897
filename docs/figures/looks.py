"""Where the Q-Former looks: by query, and by word of the caption."""

from pathlib import Path

import numpy as np

from drawing import GREY, Sheet, lit, square
from seen import WRITTEN_ABOUT, Seen

SAME = 0.95  # correlation of two maps above which they count as one


def draw(seen: Seen, path: Path) -> None:
    """Draws it."""
    attention_maps = seen.attention_maps(WRITTEN_ABOUT)
    prepared = seen.prepared(WRITTEN_ABOUT)
    sheet = Sheet(7.4, 3.35 if len(attention_maps.words) <= 9 else 4.25)
    side, gap = 0.72, 0.06
    many = len(attention_maps.queries)
    title = f"By query: the {many} of them look at {_different(attention_maps.queries)} different sets of places"
    sheet.words(0.1, 0.15, title, ha="left", fontweight="bold")
    for number, share in enumerate(attention_maps.queries):
        x = 0.1 + (number % 8) * (side + gap) + 1.05
        y = 0.32 + (number // 8) * (side + gap)
        sheet.picture(lit(square(prepared), share), x, y, side, side)
        sheet.words(x + 0.09, y + 0.1, str(number + 1), 6.5, color="white")
    sheet.picture(prepared, 0.1, 0.32, 0.95, 0.95)
    sheet.words(0.575, 1.4, "what it got", 7, color=GREY)
    sheet.words(0.1, 2.12, "By word of the caption that it wrote", ha="left", fontweight="bold")
    for number, (word, share) in enumerate(zip(attention_maps.words[:18], attention_maps.maps, strict=False)):
        x = 0.1 + (number % 9) * (side + gap) + 0.05
        y = 2.3 + (number // 9) * (side + 0.2)
        sheet.picture(lit(square(prepared), share), x, y, side, side)
        sheet.words(x + side / 2, y + side + 0.09, word, 7.5)
    sheet.save(path)


def _different(maps: np.ndarray) -> int:
    """How many of the maps (n, h, w) are no near copy of one before them."""
    kept: list[np.ndarray] = []
    for share in maps.reshape(len(maps), -1):
        if all(np.corrcoef(share, other)[0, 1] < SAME for other in kept):
            kept.append(share)
    return len(kept)
