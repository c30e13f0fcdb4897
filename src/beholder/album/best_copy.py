"""Which of several versions of a picture to keep: large, sharp, and without a watermark.

The total energy of edges would prefer a watermark to the picture below it. So sharpness is compared region by region,
and a version whose edges are stronger in a few regions only is one on which something was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from beholder.album.appearance import EDGE_FLOOR, Appearance
from beholder.album.picture import Picture

ABOUT_AS_LARGE = 0.9  # of the pixels of the largest
BLURRED = 0.5  # octaves of edge energy, in most regions, by which a version is worse
TEXTURED = np.log2(4 * EDGE_FLOOR)  # sharpness of a region from which on it is compared
DRAWN_WEIGHT = 10.0  # color levels that an octave of additional edge energy counts as much as
CONSENSUS_OF = 3  # versions that show together what the original looked like


def best_first(pictures: Sequence[Picture], appearances: Mapping[int, Appearance]) -> list[Picture]:
    """Order versions of a picture, the one to keep first.

    Versions about as large as the largest come first: of those the ones that are not blurred or faded, then those on
    which least was drawn and that are nearest to what most versions look like, the more colorful, and the larger files.
    Smaller versions follow by size.
    """
    largest = max(picture.width * picture.height for picture in pictures)
    large = [one for one in pictures if one.width * one.height >= ABOUT_AS_LARGE * largest]
    known = [appearances[one.content] for one in large if one.content in appearances]
    ranks: dict[int, tuple[float, ...]] = {}
    if known:
        sharpness = np.stack([one.sharpness for one in known])  # (n, GRID, GRID)
        colors = np.stack([one.colors for one in known]).astype(np.float32)  # (n, GRID, GRID, 3)
        usual = np.median(sharpness, axis=0)
        textured = usual > TEXTURED if (usual > TEXTURED).any() else np.ones_like(usual, bool)
        differences = (sharpness - usual)[:, textured]
        typical = np.median(differences, axis=1)
        lost = np.maximum(typical.max() - typical, 0) // BLURRED
        apart = np.abs(colors - np.median(colors, axis=0)).mean(axis=(1, 2, 3))
        drawn = np.maximum(sharpness - usual, 0).mean(axis=(1, 2))
        vivid = (colors.max(axis=3) - colors.min(axis=3)).mean(axis=(1, 2))
        with_appearance = [one for one in large if one.content in appearances]
        for row, picture in enumerate(with_appearance):
            consensus = float(apart[row]) if len(known) >= CONSENSUS_OF else 0.0
            altered = round(DRAWN_WEIGHT * float(drawn[row]) + consensus)
            rank = (float(lost[row]), altered, -round(float(vivid[row])))
            ranks[picture.content] = rank
    worst = (np.inf,) * 3

    def rank_of(picture: Picture) -> tuple[bool, int, tuple[float, ...], int, str]:
        pixels = picture.width * picture.height
        is_large = pixels >= ABOUT_AS_LARGE * largest
        order = ranks.get(picture.content, worst) if is_large else worst
        return (not is_large, 0 if is_large else -pixels, order, -picture.size, picture.path)

    return sorted(pictures, key=rank_of)
