"""Image-text retrieval: recall@k in both directions. Shapes: n images, m texts, E the embedding space."""

from collections.abc import Sequence

import numpy as np

from beholder.errors import InvalidSetting
from beholder.evaluation.bootstrap import MetricFunction

MAX_SCORES = 20_000_000  # scores in memory at a time


def retrieval_ranks(images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each text's image (m,), and of each image's best text (n,); 0 is first.

    The arguments are those of `recall`. The right item ranks after all items with the same score.

    Raises:
        InvalidSetting: an image has no text, or a text has no image.
    """
    if len(image_of_text) != len(texts) or not np.array_equal(np.unique(image_of_text), np.arange(len(images))):
        raise InvalidSetting(f"{len(texts)} texts and {len(images)} images: each text needs an image, and vice versa")
    text_rank = np.zeros(len(texts), np.int64)
    for rows in _chunks(len(texts), len(images)):
        scores = texts[rows] @ images.T
        own = np.take_along_axis(scores, image_of_text[rows, None], 1)
        text_rank[rows] = (scores >= own).sum(1) - 1  # minus itself
    image_rank = np.zeros(len(images), np.int64)
    for rows in _chunks(len(images), len(texts)):
        scores = images[rows] @ texts.T
        is_own = image_of_text[None, :] == np.arange(len(images))[rows, None]
        best = np.where(is_own, scores, -np.inf).max(1, keepdims=True)
        image_rank[rows] = ((scores >= best) & ~is_own).sum(1)
    return text_rank, image_rank


def best_match(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return, for each text (m, E), the row of the image (n, E) with the highest score: (m,)."""
    return np.concatenate([(texts[rows] @ images.T).argmax(1) for rows in _chunks(len(texts), len(images))])


def recall(
    images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Return recall@k in both directions; images may have several captions.

    Args:
        images: (n, E), unit length.
        texts: (m, E), unit length.
        owner: (m,), the row of the image that each text describes. Every image needs a text.
        ks: values of k.

    Returns:
        ``{"text_to_image@1": …, "image_to_text@1": …}`` from 0 to 1. An item ranks after
        all items with the same score. From image to text, the best of the image's captions counts.

    Source: the protocol of Karpathy and Fei-Fei, *Deep Visual-Semantic Alignments*, section 4.2.
    """
    measured = recall_metric(*retrieval_ranks(images, texts, image_of_text), image_of_text, ks)(
        np.ones((1, len(images)))
    )
    return {name: float(value[0]) for name, value in measured.items()}


def recall_metric(
    text_rank: np.ndarray, image_rank: np.ndarray, image_of_text: np.ndarray, ks: Sequence[int]
) -> MetricFunction:
    """Return recall as a function of samples of images, each with its captions; the gallery is always complete."""
    texts = np.bincount(image_of_text, minlength=len(image_rank))  # (n,)
    found = np.stack([np.bincount(image_of_text, text_rank < k, len(image_rank)) for k in ks], 1)  # (n, ks)

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        text_share = counts @ found / (counts @ texts)[:, None]
        image_share = counts @ np.stack([image_rank < k for k in ks], 1) / counts.sum(1, keepdims=True)
        result = {f"text_to_image@{k}": text_share[:, column] for column, k in enumerate(ks)}
        return result | {f"image_to_text@{k}": image_share[:, column] for column, k in enumerate(ks)}

    return measure


def _chunks(rows: int, columns: int) -> list[slice]:
    step = max(1, MAX_SCORES // max(columns, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]
