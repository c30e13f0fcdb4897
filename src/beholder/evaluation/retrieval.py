"""Recall: how often the right picture is among the first k that a sentence finds, and the other way round."""

from collections.abc import Sequence

import numpy as np


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
    scores = texts @ images.T  # (m, n)
    own = scores[np.arange(len(texts)), owner]
    text_rank = (scores >= own[:, None]).sum(axis=1) - 1  # minus itself

    is_own = owner[:, None] == np.arange(len(images))[None, :]  # (m, n)
    best = np.where(is_own, scores, -np.inf).max(axis=0)  # (n,)
    image_rank = ((scores >= best[None, :]) & ~is_own).sum(axis=0)

    result = {f"text_to_image@{k}": float((text_rank < k).mean()) for k in ks}
    return result | {f"image_to_text@{k}": float((image_rank < k).mean()) for k in ks}
