"""BLIP-2's objectives: three of stage 1 and one of stage 2 (arXiv:2301.12597, sections 3.2 and 3.3).

Shapes: B images and their texts, Q queries, E the contrastive space, T text tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # target of padding, prompt and image


def pair_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Similarity (B, B) of images (B, Q, E) and texts (B, E): that of the query closest to the text."""
    return torch.einsum("iqe,je->ijq", images, texts).amax(-1)


def itc_loss(similarity: Tensor, logit_scale: Tensor, same: Tensor | None = None, smoothing: float = 0.1) -> Tensor:
    """Image-text contrastive loss (ITC): symmetric cross-entropy over the batch.

    Args:
        similarity: (B, B), rows are images, columns texts, pairs on the diagonal.
        logit_scale: logarithm of the inverse temperature.
        same: (B, B), true where a text belongs to an image off the diagonal; those are ignored.
        smoothing: label smoothing, 0.1 in the paper.
    """
    logits = similarity * logit_scale.exp()
    targets = torch.arange(len(logits), device=logits.device)
    if same is not None:
        other = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(other, torch.finfo(logits.dtype).min / 2)
        smoothing = 0.0  # it would include the ignored pairs
    rows = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    return (rows + F.cross_entropy(logits.T, targets, label_smoothing=smoothing)) / 2


def hard_negatives(similarity: Tensor, logit_scale: Tensor, same: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample a negative column for each row, likelier the more similar the two are (arXiv:2107.07651, section 3.2).

    A row without negatives gets its own column; ``same`` (B, B) tells the caller which rows those are.
    """
    logits = (similarity.detach() * logit_scale.detach().exp()).masked_fill(same, float("-inf"))
    without = same.all(1)
    probabilities = torch.where(
        without[:, None], torch.eye(len(same), device=same.device), logits.softmax(1).nan_to_num()
    )
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def itm_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Image-text matching loss (ITM): binary cross-entropy of logits (n, 2), ``matches`` (n,) bool."""
    return F.cross_entropy(logits, matches.long())


def language_modeling_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of tokens: logits (…, V), targets (…) with ``IGNORED`` where there is nothing to predict."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)


def text_loss(logits: Tensor, targets: Tensor, owner: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of n tokens, logits (n, V) and targets (n,).

    Args:
        owner: (n,), index of each token's text; the mean is then over texts, of their own means.
        weights: of each text; the mean is then over tokens, each weighted as its text.
    """
    if owner is None:
        return F.cross_entropy(logits, targets)
    loss = F.cross_entropy(logits, targets, reduction="none")
    if weights is not None:
        return (loss * weights[owner]).mean()
    texts = int(owner.max()) + 1
    return (loss.new_zeros(texts).index_add(0, owner, loss) / owner.bincount(minlength=texts)).mean()
