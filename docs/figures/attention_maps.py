"""Cross-attention maps of the Q-Former: by query, and by word of the caption."""

from pathlib import Path

import numpy as np

from computed import CAPTIONED, Computed
from drawing import GRAY, Canvas, lit, square

SAME = 0.95  # correlation of two maps above which they count as one


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    attention_maps = computed.attention_maps(CAPTIONED)
    prepared = computed.prepared(CAPTIONED)
    canvas = Canvas(7.4, 3.35 if len(attention_maps.words) <= 9 else 4.25)
    side, gap = 0.72, 0.06
    many = len(attention_maps.queries)
    title = f"By query: the {many} queries have {_different(attention_maps.queries)} distinct attention maps"
    canvas.text(0.1, 0.15, title, ha="left", fontweight="bold")
    for number, share in enumerate(attention_maps.queries):
        x = 0.1 + (number % 8) * (side + gap) + 1.05
        y = 0.32 + (number // 8) * (side + gap)
        canvas.picture(lit(square(prepared), share), x, y, side, side)
        canvas.text(x + 0.09, y + 0.1, str(number + 1), 6.5, color="white")
    canvas.picture(prepared, 0.1, 0.32, 0.95, 0.95)
    canvas.text(0.575, 1.4, "model input", 7, color=GRAY)
    canvas.text(0.1, 2.12, "By word of the generated caption", ha="left", fontweight="bold")
    for number, (word, share) in enumerate(zip(attention_maps.words[:18], attention_maps.maps, strict=False)):
        x = 0.1 + (number % 9) * (side + gap) + 0.05
        y = 2.3 + (number // 9) * (side + 0.2)
        canvas.picture(lit(square(prepared), share), x, y, side, side)
        canvas.text(x + side / 2, y + side + 0.09, word, 7.5)
    canvas.save(path)


def _different(maps: np.ndarray) -> int:
    """Count the maps (n, h, w) that are not a near copy of an earlier one."""
    kept: list[np.ndarray] = []
    for share in maps.reshape(len(maps), -1):
        if all(np.corrcoef(share, other)[0, 1] < SAME for other in kept):
            kept.append(share)
    return len(kept)
