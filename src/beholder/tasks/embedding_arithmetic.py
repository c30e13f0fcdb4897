"""Sums and differences of embeddings, as a generator draws them. Shapes: E the shared space."""

from collections.abc import Sequence

import numpy as np


def combine(plus: Sequence[np.ndarray], minus: Sequence[np.ndarray], center: np.ndarray) -> np.ndarray:
    """Return the embedding (E,) of "these, without those": an analogy, or for two pictures what is between them.

    Embeddings of a dual encoder share a large component, their center. What is added up are the differences to it, and
    the sum is as long as those of ``plus`` are in the mean.

    Args:
        plus: embeddings (E,), at least one.
        minus: embeddings (E,).
        center: (E,), the mean of embeddings of such pictures.
    """
    added = [each - center for each in plus]
    total = np.sum(added, axis=0) - np.sum([each - center for each in minus], axis=0)
    length = float(np.mean([np.linalg.norm(each) for each in added]))
    norm = float(np.linalg.norm(total))
    found = center + total * (length / norm) if norm > 0 else center
    return (found / max(float(np.linalg.norm(found)), 1e-12)).astype(np.float32)
