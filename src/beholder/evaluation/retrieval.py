"""Recall: how often the right picture is among the first k that a sentence finds, and the other way round."""

from collections.abc import Sequence

import numpy as np

from beholder.errors import InvalidSetting
from beholder.evaluation.confidence import Measure

AT_ONCE = 20_000_000  # scores that are held in memory together


def ranks(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each text the rank of its picture (m,), and for each picture the rank of its best text (n,); 0 is first.

    The arguments are those of `recall`. A tie counts against us: what is right ranks behind all that score the same.

    Raises:
        InvalidSetting: a picture has no text, or a text belongs to no picture.
    """
    if len(owner) != len(texts) or not np.array_equal(np.unique(owner), np.arange(len(images))):
        raise InvalidSetting(
            f"{len(texts)} texts and {len(images)} pictures: each text needs a picture, and vice versa"
        )
    text_rank = np.zeros(len(texts), np.int64)
    for rows in _parts(len(texts), len(images)):
        scores = texts[rows] @ images.T
        own = np.take_along_axis(scores, owner[rows, None], 1)
        text_rank[rows] = (scores >= own).sum(1) - 1  # minus itself
    image_rank = np.zeros(len(images), np.int64)
    for rows in _parts(len(images), len(texts)):
        scores = images[rows] @ texts.T
        is_own = owner[None, :] == np.arange(len(images))[rows, None]
        best = np.where(is_own, scores, -np.inf).max(1, keepdims=True)
        image_rank[rows] = ((scores >= best) & ~is_own).sum(1)
    return text_rank, image_rank


def found_first(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """For each text (m, E) the row of the picture (n, E) that scores highest: (m,)."""
    return np.concatenate([(texts[rows] @ images.T).argmax(1) for rows in _parts(len(texts), len(images))])


def recall(
    images: np.ndarray, texts: np.ndarray, owner: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall@k in both directions, right with several captions a picture.

    Args:
        images: (n, E), unit length.
        texts: (m, E), unit length.
        owner: (m,), for each text the row of the picture that it describes. Every picture needs a text.
        ks: the ranks at which to look.

    Returns:
        ``{"text_to_image@1": …, "image_to_text@1": …}`` as shares from 0 to 1. A tie counts against us: a picture
        ranks behind all that score the same. From picture to text the best of its own captions counts.

    Source: the protocol of Karpathy and Fei-Fei, *Deep Visual-Semantic Alignments*, section 4.2.
    """
    measured = recall_measure(*ranks(images, texts, owner), owner, ks)(np.ones((1, len(images))))
    return {name: float(value[0]) for name, value in measured.items()}


def recall_measure(text_rank: np.ndarray, image_rank: np.ndarray, owner: np.ndarray, ks: Sequence[int]) -> Measure:
    """Recall of samples of pictures, each with its captions; all pictures stay there to be found."""
    texts = np.bincount(owner, minlength=len(image_rank))  # (n,)
    found = np.stack([np.bincount(owner, text_rank < k, len(image_rank)) for k in ks], 1)  # (n, ks)

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        text_share = counts @ found / (counts @ texts)[:, None]
        image_share = counts @ np.stack([image_rank < k for k in ks], 1) / counts.sum(1, keepdims=True)
        result = {f"text_to_image@{k}": text_share[:, column] for column, k in enumerate(ks)}
        return result | {f"image_to_text@{k}": image_share[:, column] for column, k in enumerate(ks)}

    return measure


def _parts(rows: int, columns: int) -> list[slice]:
    step = max(1, AT_ONCE // max(columns, 1))
    return [slice(begin, begin + step) for begin in range(0, rows, step)]
