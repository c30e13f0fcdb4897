"""Tiling: a large picture as a grid of square tiles, followed by the whole picture in one tile.

A network that was trained on small squares sees the details in the tiles, and how they belong together in the last one
(SPHINX, arXiv:2311.07575, section 3.3; Idefics3, arXiv:2408.12637, section 2.2.3).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
from PIL import Image

from beholder.errors import InvalidSetting
from beholder.pictures.transform import Interpolation, normalize

LONGEST_EDGE_LIMIT = 4096  # of a resized picture, as in transformers


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut into tiles.

    Attributes:
        tile_size: S, the side of a tile in pixels.
        longest_edge: the longer side of a picture is resized to this first; None leaves pictures as they are.
        split: cut pictures into tiles; otherwise they are squashed into one.
        interpolation: name of a Pillow resampling filter.
        mean, std: per channel, for values in 0..1, as in `beholder.pictures.transform.Preprocessing`.
    """

    tile_size: int
    longest_edge: int | None
    split: bool = True
    interpolation: Interpolation = "lanczos"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for setting in ("tile_size", "longest_edge"):
            value = getattr(self, setting)
            if not (setting == "longest_edge" and value is None) and (not isinstance(value, int) or value < 1):
                raise InvalidSetting(f"{setting}: must be a positive integer, not {value!r}")
        if self.interpolation not in get_args(Interpolation):
            raise InvalidSetting(
                f"interpolation {self.interpolation!r} is none of {', '.join(get_args(Interpolation))}"
            )
        for setting in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, setting))
            if len(values) != 3 or not np.isfinite(values).all() or (setting == "std" and min(values) <= 0):
                raise InvalidSetting(f"{setting}: must be three numbers, not {getattr(self, setting)!r}")
            object.__setattr__(self, setting, values)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return rows and columns of the tiles of a picture of this size; (0, 0) if it is a single tile."""
        width, height = self.tiled_size(*self.resized_size(width, height))
        rows, columns = height // self.tile_size, width // self.tile_size
        return (rows, columns) if self.split and rows * columns > 1 else (0, 0)

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height with ``longest_edge`` as the longer side; the shorter one is even."""
        if self.longest_edge is None:
            return width, height
        width, height = _with_longer_side(width, height, self.longest_edge)
        width, height = (width, height + height % 2) if width >= height else (width + width % 2, height)
        width, height = max(width, 1), max(height, 1)
        if max(width, height) > LONGEST_EDGE_LIMIT:
            width, height = _with_longer_side(width, height, LONGEST_EDGE_LIMIT)
        return max(width, 1), max(height, 1)

    def tiled_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height rounded up to whole tiles."""
        size, ratio = self.tile_size, width / height
        if width >= height:
            width = math.ceil(width / size) * size
            return width, math.ceil(int(width / ratio) / size) * size
        height = math.ceil(height / size) * size
        return math.ceil(int(height * ratio) / size) * size, height


class Tiles(NamedTuple):
    """The tiles of a picture: pixels (n, 3, S, S), row by row, the whole picture last; rows and columns of the grid."""

    pixels: np.ndarray
    rows: int
    columns: int


def to_tiles(picture: Image.Image, tiling: Tiling) -> Tiles:
    """Cut an image of mode RGB into tiles, and normalize them.

    Matches transformers' ``SmolVLMImageProcessorPil``.
    """
    resampling = Image.Resampling[tiling.interpolation.upper()]
    size = tiling.tile_size
    resized = picture.resize(tiling.resized_size(*picture.size), resampling)
    rows, columns = tiling.grid(*picture.size)
    if tiling.split:
        resized = resized.resize(tiling.tiled_size(*resized.size), resampling)
    whole = resized.resize((size, size), resampling)
    colors = np.asarray(resized)
    tiles = [
        colors[row * size : (row + 1) * size, column * size : (column + 1) * size]
        for row in range(rows)
        for column in range(columns)
    ]
    pixels = [normalize(tile, tiling.mean, tiling.std) for tile in [*tiles, np.asarray(whole)]]
    return Tiles(np.stack(pixels), rows, columns)


def _with_longer_side(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return width and height for a given longer side; the shorter one is rounded down."""
    ratio = width / height
    return (longest, int(longest / ratio)) if width >= height else (int(longest * ratio), longest)
