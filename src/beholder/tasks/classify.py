"""From scores to labels: one out of many, none of them, or each by itself.

Shapes: n pictures, L labels.
"""

from collections.abc import Sequence

import numpy as np

from beholder.errors import InvalidSetting
from beholder.text.templates import fill_templates

NONE = "none of these"


def label_prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every label in every template, label by label: L × templates sentences."""
    if not labels:
        raise InvalidSetting("there are no labels to choose from: give at least one")
    if isinstance(labels, str):
        raise InvalidSetting(f"labels must be a list of words, not the one text {labels!r}")
    return [sentence for label in labels for sentence in fill_templates(templates, [label])]


def choose(logits: np.ndarray, labels: Sequence[str], fits: np.ndarray | None = None) -> list[list[tuple[str, float]]]:
    """One label out of many: for each picture (label, probability), best first, adding up to 1.

    Args:
        logits: (n, L).
        labels: L names.
        fits: (n, L) or None: the probability of each label by itself. Where it is given, the answer may also be
            `NONE`: it takes what the best label leaves, and the labels share the rest.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    names = list(labels)
    if fits is not None:
        best = fits.max(axis=1, keepdims=True)
        shares = np.concatenate([shares * best, 1 - best], axis=1)
        names = [*names, NONE]
    return ranked(shares, names)


def judge(fits: np.ndarray, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Each label by itself: for each picture (label, probability), best first."""
    return ranked(fits, labels)


def ranked(shares: np.ndarray, names: Sequence[str]) -> list[list[tuple[str, float]]]:
    """For each row, names with their shares, the largest first."""
    order = np.argsort(-shares, axis=1, kind="stable")
    pairs = zip(shares, order, strict=True)
    return [[(names[column], float(row[column])) for column in columns] for row, columns in pairs]
