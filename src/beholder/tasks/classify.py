"""Zero-shot classification: from scores to ranked labels. Shapes: n images, L labels."""

from collections.abc import Sequence

import numpy as np

from beholder.errors import InvalidSetting
from beholder.tasks.inputs import text_list
from beholder.text.templates import fill_templates

NONE = "none of these"


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
        match: (n, L), the probability that each label matches by itself. If given, `NONE` is an answer, too: it gets
            one minus the highest of them, and the labels share the rest.
    """
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    names = list(labels)
    if match is not None:
        best = match.max(axis=1, keepdims=True)
        probabilities = np.concatenate([probabilities * best, 1 - best], axis=1)
        names = [*names, NONE]
    return rank_labels(probabilities, names)


def rank_labels(probabilities: np.ndarray, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Return, for each row (L,) of probabilities, the labels with theirs, highest first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    rows = zip(probabilities, order, strict=True)
    return [[(labels[column], float(row[column])) for column in columns] for row, columns in rows]
