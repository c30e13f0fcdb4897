"""Outliers: pictures unlike any other of the album.

Source: Angiulli and Pizzuti, *Fast Outlier Detection in High Dimensional Spaces*
(the mean distance to the nearest neighbors).
Shapes: n pictures, E dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beholder.album.picture import Picture
from beholder.album.search import FIT_THRESHOLD, median_and_spread

NEIGHBORS = 5  # that a picture is compared with
SAMPLE = 20_000  # pictures that represent a larger album


@dataclass(frozen=True)
class Outlier:
    """One picture and its distance from its nearest neighbors.

    Attributes:
        picture: the picture.
        distance: 1 minus the mean cosine to the nearest neighbors.
        stands_out: whether that is unusual for this album.
    """

    picture: Picture
    distance: float
    stands_out: bool


def find_outliers(pictures: list[Picture], vectors: np.ndarray, top: int) -> list[Outlier]:
    """Return the pictures least like the others, the most distant first.

    Args:
        pictures: n of them.
        vectors: their embeddings (n, E), unit length.
        top: number of results.
    """
    if len(pictures) < 2:
        return []
    distances = knn_distance(vectors)
    center, spread = median_and_spread(distances)
    return [
        Outlier(pictures[row], round(float(distances[row]), 4), bool(distances[row] > center + FIT_THRESHOLD * spread))
        for row in np.argsort(-distances, kind="stable")[:top]
    ]


def knn_distance(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return 1 minus the mean cosine of each vector (n, E) to its nearest neighbors: (n,)."""
    import faiss

    some = np.arange(len(vectors))
    if len(vectors) > SAMPLE:
        some = np.sort(np.random.default_rng(seed).choice(len(vectors), SAMPLE, replace=False))
    count = min(NEIGHBORS + 1, len(some))
    cosines, rows = faiss.knn(vectors, vectors[some], count, metric=faiss.METRIC_INNER_PRODUCT)
    others = some[rows] != np.arange(len(vectors))[:, None]
    others &= np.cumsum(others, axis=1) <= count - 1
    return 1 - (cosines * others).sum(axis=1) / others.sum(axis=1)
