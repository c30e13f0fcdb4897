"""How much of the true nearest a search finds: exact search over vectors as they come from the album, and queries.

Shapes: n vectors, m queries, E dimensions, k results.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

K = 10  # recall is measured among so many results
SAMPLE = 200  # queries to measure it with


class ExactSearch:
    """The true nearest to some queries, over vectors that are shown a part at a time.

    Args:
        queries: (m, E) float32.
        k: results.
    """

    def __init__(self, queries: np.ndarray, k: int = K):
        self.queries = queries
        self.k = k
        self.cosines = np.zeros((len(queries), 0), np.float32)
        self.ids = np.zeros((len(queries), 0), np.int64)  # (m, up to k), best first

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Takes vectors (n, E) float32 with rising ids (n,) into account."""
        cosines = self.queries @ vectors.T  # (m, n)
        if self.k < len(ids):
            some = np.sort(np.argpartition(-cosines, self.k, axis=1)[:, : self.k], axis=1)
            cosines, ids = np.take_along_axis(cosines, some, 1), ids[some]
        else:
            ids = np.broadcast_to(ids, cosines.shape)
        cosines = np.concatenate([self.cosines, cosines], axis=1)
        ids = np.concatenate([self.ids, ids], axis=1)
        kept = np.argsort(-cosines, axis=1, kind="stable")[:, : self.k]
        self.cosines, self.ids = np.take_along_axis(cosines, kept, 1), np.take_along_axis(ids, kept, 1)


def exact_search(parts: Iterable[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int = K) -> np.ndarray:
    """Ids (m, min(k, n)) of the nearest to each query, over parts of ids (n,) and half-precision vectors (n, E)."""
    search = ExactSearch(queries, k)
    for ids, halves in parts:
        search.add(ids, halves.astype(np.float32))
    return search.ids


def recall_at_k(found: Iterable[np.ndarray], truth: np.ndarray) -> float:
    """The share of the true nearest (m, k) that is among what was found for each of m queries."""
    hits = sum(len(np.intersect1d(some, best)) for some, best in zip(found, truth, strict=True))
    return hits / truth.size if truth.size else 1.0


def sample_queries(pictures: np.ndarray, sentences: np.ndarray, sample: int = SAMPLE) -> np.ndarray:
    """Queries (m, E) float32: half of them vectors of pictures, half of sentences where there are any.

    Sentences lie elsewhere than pictures, and less of what is near to them lies in few cells.
    """
    random = np.random.default_rng(1)
    some = sentences[random.choice(len(sentences), min(sample // 2, len(sentences)), replace=False)]
    kept = pictures[random.choice(len(pictures), min(sample - len(some), len(pictures)), replace=False)]
    return np.concatenate([kept, some]).astype(np.float32)
