"""What the figures share: a sheet that is measured in inches, and the few things that are drawn on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

INK, GREY, LINE = "#22303c", "#66727d", "#b9c2ca"
FROZEN, TRAINED, LIT = "#e4ebf2", "#fbe3cf", "#c2571a"  # what is never changed, what learns, what a reader looks at
BLUES, DIVERGING = "Blues", "RdBu_r"
PIXELS_PER_INCH = 200


class Sheet:
    """A white sheet; x goes right and y goes down, in inches."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")

    def save(self, path: Path) -> None:
        """Writes the PNG."""
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.figure.savefig(path)

    def words(self, x: float, y: float, text: str, size: float = 8, **style: Any) -> None:
        """A text, its middle at (x, y) unless ``ha`` and ``va`` say otherwise."""
        options = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.3} | style
        self.axes.text(x, y, text, fontsize=size, parse_math=False, **options)

    def box(self, x: float, y: float, width: float, height: float, text: str, colour: str, size: float = 8) -> None:
        """A box with words in its middle."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y),
                width,
                height,
                boxstyle=f"round,pad=0,rounding_size={min(0.06, width / 5)}",
                facecolor=colour,
                edgecolor=LINE,
            )
        )
        self.words(x + width / 2, y + height / 2, text, size)

    def frame(self, x: float, y: float, width: float, height: float, colour: str = LIT, line: float = 1.5) -> None:
        """An empty rectangle around something."""
        self.axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=line, zorder=4))

    def arrow(self, *points: tuple[float, float], colour: str = GREY) -> None:
        """A line through points that ends in an arrow."""
        xs, ys = zip(*points[:-1], strict=True)
        self.axes.plot(xs, ys, color=colour, linewidth=1, solid_capstyle="round")
        self.axes.add_patch(
            FancyArrowPatch(
                points[-2],
                points[-1],
                arrowstyle="-|>",
                mutation_scale=8,
                color=colour,
                linewidth=1,
                shrinkA=0,
                shrinkB=0,
            )
        )

    def picture(self, image: Image.Image | np.ndarray, x: float, y: float, width: float, height: float) -> None:
        """A picture, stretched into its place."""
        self.axes.imshow(
            np.asarray(image), extent=(x, x + width, y + height, y), aspect="auto", interpolation="nearest"
        )

    def values(
        self, values: np.ndarray, x: float, y: float, width: float, height: float, most: float | None = None
    ) -> None:
        """Numbers (rows, columns) as colours: blue below zero, red above; white is zero."""
        most = float(np.abs(values).max()) if most is None else most
        self.axes.imshow(
            values,
            extent=(x, x + width, y + height, y),
            aspect="auto",
            interpolation="nearest",
            cmap=DIVERGING,
            vmin=-most,
            vmax=most,
        )
        self.frame(x, y, width, height, LINE, 0.5)

    def cells(
        self,
        shares: np.ndarray,
        x: float,
        y: float,
        side: float,
        shown: Sequence[Sequence[str]] | None = None,
        size: float = 6.5,
    ) -> None:
        """A matrix of square cells, from white (0) to dark blue (1), with a word in each where ``shown`` has some."""
        rows, columns = shares.shape
        self.axes.imshow(
            shares, extent=(x, x + columns * side, y + rows * side, y), aspect="auto", cmap=BLUES, vmin=0, vmax=1.15
        )
        for line in range(rows + 1):
            self.axes.plot([x, x + columns * side], [y + line * side] * 2, color="white", linewidth=1)
        for line in range(columns + 1):
            self.axes.plot([x + line * side] * 2, [y, y + rows * side], color="white", linewidth=1)
        for row, line_of_words in enumerate(shown or ()):
            for column, word in enumerate(line_of_words):
                colour = "white" if shares[row, column] > 0.6 else INK
                self.words(x + (column + 0.5) * side, y + (row + 0.5) * side, word, size, color=colour)


def square(image: Image.Image) -> Image.Image:
    """The middle of a picture, as high as wide."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def lit(image: Image.Image, share: np.ndarray) -> np.ndarray:
    """A picture, dark and grey but for the places where ``share`` (h, w) is high; from its least to its most."""
    spread = (share - share.min()) / max(float(np.ptp(share)), 1e-9)
    grid = Image.fromarray(spread.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    light = np.asarray(grid).clip(0, 1)[..., None]
    colours = np.asarray(image, np.float32) / 255
    grey = colours.mean(-1, keepdims=True).repeat(3, -1)
    return light * colours + (1 - light) * 0.35 * grey
