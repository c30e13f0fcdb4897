"""Classification metrics: top-1, top-5 and mean per-class accuracy, and confusions. Shapes: n images, L labels."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from beholder.evaluation.bootstrap import MetricFunction

TOP = 5


def label_ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the rank (n,) of each image's true label by its scores (n, L); 0 is first, and ties rank last."""
    own = np.take_along_axis(scores, truth[:, None], 1)
    return (scores >= own).sum(1) - 1


def accuracy_metric(scores: np.ndarray, truth: np.ndarray) -> MetricFunction:
    """Return ``top1``, ``mean_per_class`` and, with more than five labels, ``top5``, from 0 to 1.

    Args:
        scores: (n, L), higher is more likely.
        truth: (n,), the index of the true label. Labels without an image do not enter the mean per class.
    """
    rank = label_ranks(scores, truth)
    order = np.argsort(truth, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(truth[order]) > 0])
    correct = rank == 0

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        total = counts.sum(1)
        per_class = np.add.reduceat(counts[:, order], starts, axis=1)  # (R, classes)
        correct_per_class = np.add.reduceat((counts * correct)[:, order], starts, axis=1)
        present = per_class > 0  # some samples miss a class of few images
        share = np.where(present, correct_per_class / np.maximum(per_class, 1), 0)
        result = {"top1": counts @ correct / total, "mean_per_class": share.sum(1) / present.sum(1)}
        return result | ({"top5": counts @ (rank < TOP) / total} if scores.shape[1] > TOP else {})

    return measure


def confusion_counts(predicted: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return, for each true label, the non-zero counts of predicted labels, most frequent first."""
    pairs = Counter(zip(truth.tolist(), predicted.tolist(), strict=True))
    result: dict[str, dict[str, int]] = {labels[target]: {} for target in sorted(set(truth.tolist()))}
    for (target, label), count in pairs.most_common():
        result[labels[target]][labels[label]] = count
    return result
