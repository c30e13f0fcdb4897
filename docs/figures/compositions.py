"""What no emoji shows, as `mini`'s image generator draws it: one drawing of each, chosen before any was drawn."""

import math
import textwrap
from pathlib import Path

from computed import Computed
from drawing import GRAY, Canvas

COMPOSITIONS = (
    *("a blue cat", "a green dog", "a purple apple", "a pink elephant", "a red frog", "an orange whale"),
    *("a black heart with a crown", "a red heart with a hat", "a yellow rose", "a blue strawberry"),
    *("a frog and a crown", "a cat and a pizza", "a dog with sunglasses", "a bear with a party hat"),
    *("a penguin and a guitar", "an owl and a book", "a rabbit and a rocket", "a fox with a bow tie"),
    *("a smiling moon", "an angry sun", "a crying cloud", "a sleeping star", "a laughing pumpkin"),
    *("a house on fire", "a tree in the snow", "a castle at night", "a boat on a red sea", "a rainbow over a volcano"),
    *("a robot with heart eyes", "an alien with a cowboy hat", "a ghost with a balloon", "a skull with flowers"),
    *("a green car", "a pink airplane", "a golden bicycle", "a wooden train"),
    *("a slice of blue cake", "a purple banana", "a glass of green milk", "a burger with wings"),
)
COLUMNS = 8
SIDE, GAP, HEIGHT = 0.82, 0.14, 1.18  # inches


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    rows = math.ceil(len(COMPOSITIONS) / COLUMNS)
    canvas = Canvas(COLUMNS * (SIDE + GAP) + GAP, rows * HEIGHT + GAP)
    for number, text in enumerate(COMPOSITIONS):
        x, y = GAP + number % COLUMNS * (SIDE + GAP), GAP + number // COLUMNS * HEIGHT
        canvas.picture(computed.generator.generate(text, seed=0)[0], x, y, SIDE, SIDE)
        canvas.text(x + SIDE / 2, y + SIDE + 0.06, textwrap.fill(text, 16), 6.5, color=GRAY, va="top")
    canvas.save(path)
