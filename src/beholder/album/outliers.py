"""Pictures that are like no other of the album.

Source: Angiulli and Pizzuti, *Fast Outlier Detection in High Dimensional Spaces* (the distance to the nearest others).
Shapes: n pictures, E dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beholder.album.search import FIT_THRESHOLD, median_and_spread
from beholder.album.store import Picture

NEAREST = 5  # others that a picture is compared with
SAMPLE = 20_000  # pictures that stand for a larger album


@dataclass(frozen=True)
class Outlier:
    """One picture, and how far it lies from those that are most like it.

    Attributes:
        picture: which.
        distance: 1 minus the mean cosine to the nearest others.
        stands_out: whether that is unusual for this album.
    """

    picture: Picture
    distance: float
    stands_out: bool


def find_outliers(pictures: list[Picture], vectors: np.ndarray, top: int) -> list[Outlier]:
    """The pictures that are least like the others, the most unlike first.

    Args:
        pictures: n of them.
        vectors: (n, E), unit length.
        top: how many.
    """
    if len(pictures) < 2:
        return []
    distances = knn_distance(vectors)
    middle, spread = median_and_spread(distances)
    return [
        Outlier(pictures[row], round(float(distances[row]), 4), bool(distances[row] > middle + FIT_THRESHOLD * spread))
        for row in np.argsort(-distances, kind="stable")[:top]
    ]


def knn_distance(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """1 minus the mean cosine of each vector (n, E) to the nearest others: (n,)."""
    import faiss

    some = np.arange(len(vectors))
    if len(vectors) > SAMPLE:
        some = np.sort(np.random.default_rng(seed).choice(len(vectors), SAMPLE, replace=False))
    count = min(NEAREST + 1, len(some))
    cosines, rows = faiss.knn(vectors, vectors[some], count, metric=faiss.METRIC_INNER_PRODUCT)
    others = some[rows] != np.arange(len(vectors))[:, None]
    others &= np.cumsum(others, axis=1) <= count - 1
    return 1 - (cosines * others).sum(axis=1) / others.sum(axis=1)
