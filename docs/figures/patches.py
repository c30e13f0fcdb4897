"""A photograph, the network's input, its grid cells, and the vector that each cell becomes."""

from pathlib import Path

from computed import Computed
from drawing import GRAY, LIT, Canvas

NAME = "raccoon.jpg"
ROW = 3  # of the grid whose cells are shown with their vectors
NUMBERS = 40  # of each cell's


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    photograph, prepared, tokens = computed.photograph(NAME), computed.prepared(NAME), computed.tokens(NAME)
    rows, columns = computed.grid
    canvas = Canvas(7.4, 4.1)

    height = 2.0 * photograph.height / photograph.width
    canvas.picture(photograph, 0.1, 0.5, 2.0, height)
    canvas.text(1.1, 0.28, f"The photograph, {photograph.width} × {photograph.height}")
    canvas.arrow((2.2, 1.3), (2.6, 1.3))
    canvas.picture(prepared, 2.7, 0.5, 1.9, 1.9)
    canvas.text(3.65, 0.28, f"Model input, {prepared.width} × {prepared.height}")
    for line in range(1, rows):
        canvas.axes.plot([2.7, 4.6], [0.5 + 1.9 * line / rows] * 2, color="white", linewidth=0.7)
    for line in range(1, columns):
        canvas.axes.plot([2.7 + 1.9 * line / columns] * 2, [0.5, 2.4], color="white", linewidth=0.7)
    canvas.frame(2.7, 0.5 + 1.9 * ROW / rows, 1.9, 1.9 / rows)
    canvas.arrow((4.7, 1.3), (5.1, 1.3))
    canvas.values(tokens[:, : tokens.shape[1] // 10], 5.2, 0.5, 2.1, 1.9, most=2.5)
    canvas.text(6.25, 0.28, f"{len(tokens)} cells × {tokens.shape[1]:,} dimensions")
    canvas.text(6.25, 2.52, "one row per cell; a tenth of the dimensions", 7, color=GRAY)
    top = 0.5 + 1.9 * ROW * columns / len(tokens)
    canvas.frame(5.2, top, 2.1, 1.9 * columns / len(tokens))

    side, gap, y = 0.55, 0.1, 2.95
    canvas.text(0.1, 2.7, "One row of cells, each above the first dimensions of its vector", ha="left", color=LIT)
    width, tall = prepared.width / columns, prepared.height / rows
    for column in range(columns):
        x = 0.1 + column * (side + gap)
        cell = prepared.crop(
            (round(column * width), round(ROW * tall), round((column + 1) * width), round((ROW + 1) * tall))
        )
        canvas.picture(cell, x, y, side, side)
        numbers = tokens[ROW * columns + column, :NUMBERS].reshape(4, -1)
        canvas.values(numbers, x, y + side + 0.06, side, 0.3, most=2.5)
    canvas.text(6.0, y + side / 2, "…", 14, color=GRAY)
    canvas.text(6.3, y + side / 2, "and so on for\nall nine rows" if rows == 9 else f"{rows} rows in all", 7, ha="left")
    canvas.save(path)
