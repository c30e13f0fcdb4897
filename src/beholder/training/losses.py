"""The contrastive losses of a dual encoder: pure functions of embeddings, and a table of those to train with.

Shapes: B pairs, E the shared space. Row i of ``image`` belongs to row i of ``text``; every other row is a negative,
unless ``duplicates`` says otherwise. Both losses can be computed in parts: with ``rows``, a range of them, only these
are queries, and the mean over the parts of an evenly divided batch is the loss of the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def duplicate_pairs(images: Tensor, texts: Tensor) -> Tensor:
    """(B, B), true where two pairs have the same image or the same text, according to a key (B,) of each."""
    return (images[:, None] == images) | (texts[:, None] == texts)


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    label_smoothing: float = 0.0,
    duplicates: Tensor | None = None,
    valid: Tensor | None = None,
    rows: range | None = None,
) -> Tensor:
    """CLIP's symmetric cross-entropy over the batch.

    Args:
        image: (B, E), unit length.
        text: (B, E), unit length.
        logit_scale: the learned inverse temperature, a positive scalar.
        label_smoothing: 0 to 1.
        duplicates: (B, B), true where a text is not a negative of an image; the diagonal is ignored.
        valid: (B,), false for rows that are left out.
        rows: of the images and texts that are queries; all by default.

    Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, figure 3.
    """
    by_image = _one_direction(image, text, logit_scale, label_smoothing, duplicates, valid, rows)
    transposed = None if duplicates is None else duplicates.T
    by_text = _one_direction(text, image, logit_scale, label_smoothing, transposed, valid, rows)
    return (by_image + by_text) / 2


def _one_direction(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor,
    label_smoothing: float,
    duplicates: Tensor | None,
    valid: Tensor | None,
    rows: range | None,
) -> Tensor:
    """Cross-entropy of finding, for each row of ``queries`` (B, E), its own row of ``keys`` (B, E)."""
    rows = range(len(queries)) if rows is None else rows
    logits = logit_scale * queries[rows.start : rows.stop] @ keys.T  # (rows, B)
    targets = torch.arange(rows.start, rows.stop, device=logits.device)
    if duplicates is None and valid is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    ignored = _ignored(len(queries), duplicates, valid, logits.device)[rows.start : rows.stop]
    counted = torch.ones(len(queries), device=logits.device) if valid is None else valid.float()
    log_probabilities = logits.masked_fill(ignored, float("-inf")).log_softmax(dim=1)
    loss = -log_probabilities.gather(1, targets[:, None])[:, 0]
    if label_smoothing:
        uniform = -log_probabilities.masked_fill(ignored, 0).sum(dim=1) / (~ignored).sum(dim=1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    parts = len(queries) / len(rows)
    return parts * (loss * counted[rows.start : rows.stop]).sum() / counted.sum().clamp(min=1)


def _ignored(count: int, duplicates: Tensor | None, valid: Tensor | None, device: torch.device) -> Tensor:
    """(B, B), true where a pair is neither positive nor negative."""
    ignored = torch.zeros(count, count, dtype=torch.bool, device=device) if duplicates is None else duplicates
    if valid is not None:
        ignored = ignored | ~valid[:, None] | ~valid
    return ignored & ~torch.eye(count, dtype=torch.bool, device=device)


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    duplicates: Tensor | None = None,
    valid: Tensor | None = None,
    rows: range | None = None,
) -> Tensor:
    """SigLIP's loss: binary classification of every pair of the batch.

    Args:
        image: (B, E), unit length.
        text: (B, E), unit length.
        logit_scale: the learned inverse temperature, a positive scalar.
        logit_bias: the learned bias, a scalar; starts near -10 because most pairs do not match.
        duplicates: (B, B), true where a text is not a negative of an image; the diagonal is ignored.
        valid: (B,), false for rows that are left out.
        rows: of the images that are queries; all by default.

    Source: Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, algorithm 1.
    """
    rows = range(len(image)) if rows is None else rows
    logits = logit_scale * image[rows.start : rows.stop] @ text.T + logit_bias  # (rows, B)
    signs = 2 * torch.eye(len(image), device=logits.device)[rows.start : rows.stop] - 1
    loss = -F.logsigmoid(signs * logits)
    if duplicates is None and valid is None:
        return loss.sum() / len(rows)
    loss = loss.masked_fill(_ignored(len(image), duplicates, valid, logits.device)[rows.start : rows.stop], 0)
    counted = torch.ones(len(image), device=logits.device) if valid is None else valid.float()
    loss = loss * counted[rows.start : rows.stop, None]
    return len(image) / len(rows) * loss.sum() / counted.sum().clamp(min=1)


@dataclass(frozen=True)
class Loss:
    """A loss to train a dual encoder with.

    Attributes:
        compute: called with image and text (B, E), inverse temperature, bias, label smoothing, ``duplicates``,
            ``valid`` and ``rows``.
        needs_bias: whether the network has a ``logit_bias``.
        smooths_labels: whether label smoothing applies.
        logit_scale, logit_bias: of a new network; the inverse temperature None stays as the network initializes it.
    """

    compute: Callable[
        [Tensor, Tensor, Tensor, Tensor | None, float, Tensor | None, Tensor | None, range | None], Tensor
    ]
    needs_bias: bool
    smooths_labels: bool
    logit_scale: float | None = None
    logit_bias: float = 0.0


LossName = Literal["contrastive", "sigmoid"]
LOSSES: dict[LossName, Loss] = {
    "contrastive": Loss(
        lambda image, text, scale, _, smoothing, duplicates, valid, rows: contrastive_loss(
            image, text, scale, smoothing, duplicates, valid, rows
        ),
        needs_bias=False,
        smooths_labels=True,
    ),
    "sigmoid": Loss(  # its start is that of SigLIP (arXiv:2303.15343), section 3.2
        lambda image, text, scale, bias, _, duplicates, valid, rows: sigmoid_loss(
            image,
            text,
            scale,
            bias,  # type: ignore[arg-type]
            duplicates,
            valid,
            rows,
        ),
        needs_bias=True,
        smooths_labels=False,
        logit_scale=10.0,
        logit_bias=-10.0,
    ),
}


def distillation_loss(image: Tensor, class_names: Tensor, logit_scale: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy between a classifier's probabilities and ours, which go through the embedded class names.

    Args:
        image: (B, E), unit length.
        class_names: (classes, E), unit length.
        logit_scale: inverse temperature, a positive scalar.
        teacher: (B, classes), the classifier's probabilities.

    Source: Hinton et al., *Distilling the Knowledge in a Neural Network*, equation 2.
    """
    return -(teacher * F.log_softmax(logit_scale * image @ class_names.T, dim=-1)).sum(dim=-1).mean()
