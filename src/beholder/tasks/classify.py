"""Zero-shot classification: from scores to ranked labels. Shapes: n images, L labels."""

from collections.abc import Sequence

import numpy as np

from beholder.errors import InvalidSetting
from beholder.tasks.inputs import text_list
from beholder.text.templates import fill_templates

NONE = "none of these"
NONE_PRIOR = 1 / 3  # most lists of labels are made for their pictures


def label_prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every label in every template, label by label: L × templates texts.

    Raises:
        InvalidSetting: there are no labels, or they are not a list of str.
    """
    if isinstance(labels, str):
        raise InvalidSetting(f"labels must be a list of words, not the one text {labels!r}")
    labels = text_list(labels, "labels")
    if not labels:
        raise InvalidSetting("there are no labels to choose from: give at least one")
    templates = text_list(templates, "templates")
    return [text for label in labels for text in fill_templates(templates, [label])]


def choose_label(
    logits: np.ndarray, labels: Sequence[str], match: np.ndarray | None = None
) -> list[list[tuple[str, float]]]:
    """Return each image's (label, probability) pairs, best first; the probabilities add up to 1.

    Args:
        logits: (n, L).
        labels: L names.
        match: (n, L), the probability that each label matches by itself, at even odds. If given, `NONE` is an answer,
            too: it gets its probability by Bayes' theorem, given that at most one label fits, and the labels share the
            rest. Of many labels one matches well by chance, so the more there are, the better it has to match.
    """
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    names = list(labels)
    if match is not None:
        odds = match / np.maximum(1 - match, np.finfo(match.dtype).eps)  # (n, L), of a fitting to an unrelated picture
        fits = (1 - NONE_PRIOR) * odds.mean(axis=1, keepdims=True)
        none = NONE_PRIOR / (NONE_PRIOR + fits)
        probabilities = np.concatenate([probabilities * (1 - none), none], axis=1)
        names = [*names, NONE]
    return rank_labels(probabilities, names)


def rank_labels(probabilities: np.ndarray, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Return, for each row (L,) of probabilities, the labels with theirs, highest first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    rows = zip(probabilities, order, strict=True)
    return [[(labels[column], float(row[column])) for column in columns] for row, columns in rows]
