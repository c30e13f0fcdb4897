"""Pictures that were never taken: grids on which a classifier sees the class that it is to be called by.

A classifier's weights know a thousand names. A bridge that learns to write the names of grids made from these weights
knows words that the photographs it is trained on never show.

Shapes: n photographs, V views, N cells of a grid (a square), D width, K classes, B grids.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CEILING = 6.0  # of ReLU6, where the grid's features come from
SHOWN = 0.5  # the least probability that the classifier must give to the class


def class_grids(
    features: Sequence[np.ndarray], weight: Tensor, bias: Tensor, count: int, push: float, generator: torch.Generator
) -> tuple[list[int], Tensor]:
    """Grids (B, N, D) on which the classifier sees one class, and the classes; at most ``count`` of them.

    Every cell is that of some photograph, so that the whole shows nothing in particular; then the cells of a rectangle
    are moved towards the class. A grid whose class the classifier still doubts is left out.

    Args:
        features: of each photograph (V, N, D).
        weight: the classifier's (K, D); it reads the mean over the cells.
        bias: (K,).
        count: grids to try.
        push: how far the mean over the cells is moved at most, in features.
        generator: draws all of it.
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
    strength = push * (0.5 + torch.rand(count, generator=generator) / 2)
    for number in range(count):
        height, width = heights[:, number].tolist()
        top = int(torch.randint(side - height + 1, (1,), generator=generator))
        left = int(torch.randint(side - width + 1, (1,), generator=generator))
        towards = F.normalize(weight[classes[number]], dim=0) * strength[number] * cells / (height * width)
        grid = grids[number].unflatten(0, (side, side))
        region = grid[top : top + height, left : left + width]
        region.copy_((region + towards).clamp(0, CEILING))
    shares = F.softmax(grids.mean(1) @ weight.T + bias, -1).gather(1, classes[:, None])[:, 0]
    kept = shares >= SHOWN
    return classes[kept].tolist(), grids[kept]
