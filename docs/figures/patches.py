"""A photograph, the picture that the model gets, its cells, and the numbers that each cell becomes."""

from pathlib import Path

from drawing import GREY, LIT, Sheet
from seen import Seen

NAME = "raccoon.jpg"
ROW = 3  # of the grid, whose cells are shown with their numbers
NUMBERS = 40  # of each cell's


def draw(seen: Seen, path: Path) -> None:
    """Draws it."""
    photograph, prepared, tokens = seen.photograph(NAME), seen.prepared(NAME), seen.tokens(NAME)
    rows, columns = seen.grid
    sheet = Sheet(7.4, 4.1)

    height = 2.0 * photograph.height / photograph.width
    sheet.picture(photograph, 0.1, 0.5, 2.0, height)
    sheet.words(1.1, 0.28, f"The photograph, {photograph.width} × {photograph.height}")
    sheet.arrow((2.2, 1.3), (2.6, 1.3))
    sheet.picture(prepared, 2.7, 0.5, 1.9, 1.9)
    sheet.words(3.65, 0.28, f"What the model gets, {prepared.width} × {prepared.height}")
    for line in range(1, rows):
        sheet.axes.plot([2.7, 4.6], [0.5 + 1.9 * line / rows] * 2, color="white", linewidth=0.7)
    for line in range(1, columns):
        sheet.axes.plot([2.7 + 1.9 * line / columns] * 2, [0.5, 2.4], color="white", linewidth=0.7)
    sheet.frame(2.7, 0.5 + 1.9 * ROW / rows, 1.9, 1.9 / rows)
    sheet.arrow((4.7, 1.3), (5.1, 1.3))
    sheet.values(tokens[:, : tokens.shape[1] // 10], 5.2, 0.5, 2.1, 1.9, most=2.5)
    sheet.words(6.25, 0.28, f"{len(tokens)} cells × {tokens.shape[1]:,} numbers")
    sheet.words(6.25, 2.52, "a row for each cell; a tenth of the numbers", 7, color=GREY)
    top = 0.5 + 1.9 * ROW * columns / len(tokens)
    sheet.frame(5.2, top, 2.1, 1.9 * columns / len(tokens))

    side, gap, y = 0.55, 0.1, 2.95
    sheet.words(0.1, 2.7, "One row of cells, each above the first of its numbers", ha="left", color=LIT)
    width, tall = prepared.width / columns, prepared.height / rows
    for column in range(columns):
        x = 0.1 + column * (side + gap)
        cell = prepared.crop(
            (round(column * width), round(ROW * tall), round((column + 1) * width), round((ROW + 1) * tall))
        )
        sheet.picture(cell, x, y, side, side)
        numbers = tokens[ROW * columns + column, :NUMBERS].reshape(4, -1)
        sheet.values(numbers, x, y + side + 0.06, side, 0.3, most=2.5)
    sheet.words(6.0, y + side / 2, "…", 14, color=GREY)
    sheet.words(6.3, y + side / 2, "and so on for\nall nine rows" if rows == 9 else f"{rows} rows in all", 7, ha="left")
    sheet.save(path)
