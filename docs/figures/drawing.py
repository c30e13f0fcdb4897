"""A canvas measured in inches, and the shapes that the figures are composed of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

INK, GRAY, LINE = "#22303c", "#66727d", "#b9c2ca"
FROZEN, TRAINED, LIT = "#e4ebf2", "#fbe3cf", "#c2571a"  # frozen parts, trained parts, highlights
BLUES, DIVERGING = "Blues", "RdBu_r"
PIXELS_PER_INCH = 200


class Canvas:
    """A white canvas; x points right and y points down, in inches."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")

    def save(self, path: Path) -> None:
        """Write the PNG."""
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.figure.savefig(path)

    def text(self, x: float, y: float, text: str, size: float = 8, **style: Any) -> None:
        """Draw text, centered at (x, y) unless ``ha`` and ``va`` say otherwise."""
        options = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.3} | style
        self.axes.text(x, y, text, fontsize=size, parse_math=False, **options)

    def box(self, x: float, y: float, width: float, height: float, text: str, color: str, size: float = 8) -> None:
        """Draw a box with centered text."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y),
                width,
                height,
                boxstyle=f"round,pad=0,rounding_size={min(0.06, width / 5)}",
                facecolor=color,
                edgecolor=LINE,
            )
        )
        self.text(x + width / 2, y + height / 2, text, size)

    def frame(self, x: float, y: float, width: float, height: float, color: str = LIT, line: float = 1.5) -> None:
        """Draw an empty rectangle."""
        self.axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, linewidth=line, zorder=4))

    def arrow(self, *points: tuple[float, float], color: str = GRAY) -> None:
        """Draw a polyline that ends in an arrowhead."""
        xs, ys = zip(*points[:-1], strict=True)
        self.axes.plot(xs, ys, color=color, linewidth=1, solid_capstyle="round")
        self.axes.add_patch(
            FancyArrowPatch(
                points[-2],
                points[-1],
                arrowstyle="-|>",
                mutation_scale=8,
                color=color,
                linewidth=1,
                shrinkA=0,
                shrinkB=0,
            )
        )

    def picture(self, image: Image.Image | np.ndarray, x: float, y: float, width: float, height: float) -> None:
        """Draw an image, stretched to the given size."""
        self.axes.imshow(
            np.asarray(image), extent=(x, x + width, y + height, y), aspect="auto", interpolation="nearest"
        )

    def values(
        self, values: np.ndarray, x: float, y: float, width: float, height: float, most: float | None = None
    ) -> None:
        """Draw numbers (rows, columns) as colors: blue below zero, red above, white at zero."""
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
        """Draw a matrix of square cells, from white (0) to dark blue (1), labeled with ``shown``."""
        rows, columns = shares.shape
        self.axes.imshow(
            shares, extent=(x, x + columns * side, y + rows * side, y), aspect="auto", cmap=BLUES, vmin=0, vmax=1.15
        )
        for line in range(rows + 1):
            self.axes.plot([x, x + columns * side], [y + line * side] * 2, color="white", linewidth=1)
        for line in range(columns + 1):
            self.axes.plot([x + line * side] * 2, [y, y + rows * side], color="white", linewidth=1)
        for row, labels in enumerate(shown or ()):
            for column, word in enumerate(labels):
                color = "white" if shares[row, column] > 0.6 else INK
                self.text(x + (column + 0.5) * side, y + (row + 0.5) * side, word, size, color=color)


def square(image: Image.Image) -> Image.Image:
    """Crop an image to a square around its center."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def lit(image: Image.Image, share: np.ndarray) -> np.ndarray:
    """Darken an image except where ``share`` (h, w) is high, scaled from its minimum to its maximum."""
    spread = (share - share.min()) / max(float(np.ptp(share)), 1e-9)
    grid = Image.fromarray(spread.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    light = np.asarray(grid).clip(0, 1)[..., None]
    colors = np.asarray(image, np.float32) / 255
    gray = colors.mean(-1, keepdims=True).repeat(3, -1)
    return light * colors + (1 - light) * 0.35 * gray
