"""Recall of an approximate search: exact search as the ground truth, and queries to measure it with.

Shapes: n vectors, m queries, E dimensions, k results.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

K = 10  # results among which recall is measured
SAMPLE = 200  # queries


class ExactSearch:
    """The exact nearest neighbors of some queries among vectors that are added in batches.

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
        """Add vectors (n, E) float32 with ids (n,) in rising order."""
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


def exact_search(batches: Iterable[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int = K) -> np.ndarray:
    """Return the ids (m, min(k, n)) nearest to each query, over batches of ids (n,) and float16 vectors (n, E)."""
    search = ExactSearch(queries, k)
    for ids, halves in batches:
        search.add(ids, halves.astype(np.float32))
    return search.ids


def recall_at_k(found: Iterable[np.ndarray], truth: np.ndarray) -> float:
    """Return the share of the true nearest (m, k) among the ids found for each of m queries."""
    hits = sum(len(np.intersect1d(some, best)) for some, best in zip(found, truth, strict=True))
    return hits / truth.size if truth.size else 1.0


def sample_queries(pictures: np.ndarray, sentences: np.ndarray, sample: int = SAMPLE) -> np.ndarray:
    """Return queries (m, E) float32: half image embeddings, half text embeddings if there are any.

    Text embeddings lie apart from image embeddings, and fewer of their neighbors share a cell.
    """
    random = np.random.default_rng(1)
    some = sentences[random.choice(len(sentences), min(sample // 2, len(sentences)), replace=False)]
    kept = pictures[random.choice(len(pictures), min(sample - len(some), len(pictures)), replace=False)]
    return np.concatenate([kept, some]).astype(np.float32)
