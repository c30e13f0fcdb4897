"""How good a choice among labels is: top-1, top-5, the mean per class, and what was taken for what.

Shapes: n pictures, L labels.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from beholder.evaluation.confidence import Measure

TOP = 5


def label_ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The rank (n,) of each picture's own label among scores (n, L); 0 is first, and a tie counts against us."""
    own = np.take_along_axis(scores, truth[:, None], 1)
    return (scores >= own).sum(1) - 1


def accuracy_measure(scores: np.ndarray, truth: np.ndarray) -> Measure:
    """``top1``, ``mean_per_class`` and, among more than five labels, ``top5``, as shares from 0 to 1.

    Args:
        scores: (n, L), higher is likelier.
        truth: (n,), the number of the right label. Labels of no picture do not enter the mean per class.
    """
    rank = label_ranks(scores, truth)
    order = np.argsort(truth, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(truth[order]) > 0])
    right = rank == 0

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        total = counts.sum(1)
        per_class = np.add.reduceat(counts[:, order], starts, axis=1)  # (R, classes)
        right_per_class = np.add.reduceat((counts * right)[:, order], starts, axis=1)
        there = per_class > 0  # a class of few pictures is missing from some samples
        share = np.where(there, right_per_class / np.maximum(per_class, 1), 0)
        result = {"top1": counts @ right / total, "mean_per_class": share.sum(1) / there.sum(1)}
        return result | ({"top5": counts @ (rank < TOP) / total} if scores.shape[1] > TOP else {})

    return measure


def confusion(chosen: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """For each right label, how often each label was chosen, the commonest first; what never happened is left out."""
    pairs = Counter(zip(truth.tolist(), chosen.tolist(), strict=True))
    result: dict[str, dict[str, int]] = {labels[number]: {} for number in sorted(set(truth.tolist()))}
    for (right, said), count in pairs.most_common():
        result[labels[right]][labels[said]] = count
    return result
