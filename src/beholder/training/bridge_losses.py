"""What a bridge is trained by: stage 1's three objectives and stage 2's one (arXiv:2301.12597, sections 3.2 and 3.3).

Shapes: B pictures and their texts, Q queries, E the space of contrast, T text tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # a target that is no word to learn: padding, prompt, picture


def pair_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """How alike each picture (B, Q, E) and each text (B, E) are: that of the query closest to the text. (B, B)."""
    return torch.einsum("iqe,je->ijq", images, texts).amax(-1)


def itc_loss(similarity: Tensor, logit_scale: Tensor, same: Tensor | None = None, smoothing: float = 0.1) -> Tensor:
    """Symmetric cross-entropy over a batch's pictures and texts.

    Args:
        similarity: (B, B), rows are pictures, columns texts, pairs on the diagonal.
        logit_scale: logarithm of the inverse temperature.
        same: (B, B), true where a text belongs to a picture although it is not the pair; those are left out.
        smoothing: label smoothing, the paper's 0.1.
    """
    logits = similarity * logit_scale.exp()
    targets = torch.arange(len(logits), device=logits.device)
    if same is not None:
        other = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(other, torch.finfo(logits.dtype).min / 2)
        smoothing = 0.0  # smoothing would ask for the pairs that are left out
    rows = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    return (rows + F.cross_entropy(logits.T, targets, label_smoothing=smoothing)) / 2


def hard_negatives(similarity: Tensor, logit_scale: Tensor, same: Tensor, generator: torch.Generator | None) -> Tensor:
    """For each row a column that does not belong to it, likelier the more alike the two are (arXiv:2107.07651, 3.2).

    A row to which every column belongs gets its own column; ``same`` (B, B) tells a caller which rows those are.
    """
    logits = (similarity.detach() * logit_scale.detach().exp()).masked_fill(same, float("-inf"))
    alone = same.all(1)
    chances = torch.where(alone[:, None], torch.eye(len(same), device=same.device), logits.softmax(1).nan_to_num())
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


def itm_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """Cross-entropy of "fits" or "does not": logits (n, 2), ``fits`` (n,) bool."""
    return F.cross_entropy(logits, fits.long())


def language_modeling_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the words: logits (…, V), targets (…) with ``IGNORED`` where nothing is to be learned."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)


def text_loss(logits: Tensor, targets: Tensor, owner: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of n words, logits (n, V) and targets (n,).

    Args:
        owner: (n,), the text that each word belongs to; the mean is then of the texts' own means.
        weights: of each text; the mean is then over the words again, each as heavy as its text.
    """
    if owner is None:
        return F.cross_entropy(logits, targets)
    lost = F.cross_entropy(logits, targets, reduction="none")
    if weights is not None:
        return (lost * weights[owner]).mean()
    texts = int(owner.max()) + 1
    return (lost.new_zeros(texts).index_add(0, owner, lost) / owner.bincount(minlength=texts)).mean()
