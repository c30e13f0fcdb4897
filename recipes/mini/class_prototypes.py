"""Class prototypes: synthetic feature grids that a classifier assigns to a given class.

They teach a bridge the names of ImageNet classes that its training photographs do not show.

Shapes: n photographs, V views, N cells of a grid (a square), D width, K classes, B grids.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CEILING = 6.0  # of ReLU6, where the grid's features come from
MIN_PROBABILITY = 0.5  # minimum probability that the classifier must assign to the class


def class_prototype_grids(
    features: Sequence[np.ndarray], weight: Tensor, bias: Tensor, count: int, shift: float, generator: torch.Generator
) -> tuple[list[int], Tensor]:
    """Return at most ``count`` classes and grids (B, N, D) that the classifier assigns to them.

    The cells of a grid are taken from random photographs, so that it shows nothing in particular; then the cells of a
    random rectangle are shifted towards the class. Grids below `MIN_PROBABILITY` are dropped.

    Args:
        features: Grid features (V, N, D) of each photograph.
        weight: Weights (K, D) of the classifier, which is applied to the mean over the cells.
        bias: Bias (K,) of the classifier.
        count: Number of grids to try.
        shift: Maximum shift of the mean over the cells.
        generator: Source of all randomness.
    """
    cells = features[0].shape[1]
    side = int(cells**0.5)
    rows = torch.randint(len(features), (count, cells), generator=generator).tolist()
    views = torch.randint(len(features[0]), (count, cells), generator=generator).tolist()
    mixed = np.stack(
        [
            np.stack([features[row][view][cell] for cell, (row, view) in enumerate(zip(*drawn, strict=True))])
            for drawn in zip(rows, views, strict=True)
        ]
    )
    grids = torch.from_numpy(mixed.astype(np.float32))
    classes = torch.randint(len(weight), (count,), generator=generator)
    heights = torch.randint(side // 2, side + 1, (2, count), generator=generator)
    strength = shift * (0.5 + torch.rand(count, generator=generator) / 2)
    for number in range(count):
        height, width = heights[:, number].tolist()
        top = int(torch.randint(side - height + 1, (1,), generator=generator))
        left = int(torch.randint(side - width + 1, (1,), generator=generator))
        towards = F.normalize(weight[classes[number]], dim=0) * strength[number] * cells / (height * width)
        grid = grids[number].unflatten(0, (side, side))
        region = grid[top : top + height, left : left + width]
        region.copy_((region + towards).clamp(0, CEILING))
    shares = F.softmax(grids.mean(1) @ weight.T + bias, -1).gather(1, classes[:, None])[:, 0]
    kept = shares >= MIN_PROBABILITY
    return classes[kept].tolist(), grids[kept]
