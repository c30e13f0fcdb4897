"""The losses that pull a picture and its sentence together: pure functions of embeddings.

Shapes: B pairs, E the shared space. Row i of ``image`` belongs to row i of ``text``; every other row is a negative,
unless ``same`` says that it shows or says the same. Both losses can be had in parts: with ``rows``, a range of them,
only these are asked, and the mean over the parts of an evenly divided batch is the loss of the whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def duplicate_pairs(pictures: Tensor, texts: Tensor) -> Tensor:
    """(B, B), true where two pairs have the same picture or the same text, told by a number (B,) of each."""
    return (pictures[:, None] == pictures) | (texts[:, None] == texts)


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    smoothing: float = 0.0,
    same: Tensor | None = None,
    there: Tensor | None = None,
    rows: range | None = None,
) -> Tensor:
    """CLIP's symmetric cross-entropy over the batch.

    Args:
        image: (B, E), unit length.
        text: (B, E), unit length.
        scale: the learned inverse temperature, a positive scalar.
        smoothing: label smoothing, 0 to 1.
        same: (B, B), true where a text is no negative for a picture; the diagonal is not looked at.
        there: (B,), false for rows that count for nothing.
        rows: of which pictures and texts; all by default.

    Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, figure 3.
    """
    by_image = _one_way(image, text, scale, smoothing, same, there, rows)
    by_text = _one_way(text, image, scale, smoothing, None if same is None else same.T, there, rows)
    return (by_image + by_text) / 2


def _one_way(
    asked: Tensor,
    among: Tensor,
    scale: Tensor,
    smoothing: float,
    same: Tensor | None,
    there: Tensor | None,
    rows: range | None,
) -> Tensor:
    """Cross-entropy of finding, for each row of ``asked`` (B, E), its own ``among`` (B, E)."""
    rows = range(len(asked)) if rows is None else rows
    logits = scale * asked[rows.start : rows.stop] @ among.T  # (rows, B)
    own = torch.arange(rows.start, rows.stop, device=logits.device)
    if same is None and there is None:
        return F.cross_entropy(logits, own, label_smoothing=smoothing)
    left_out = _left_out(len(asked), same, there, logits.device)[rows.start : rows.stop]
    counted = torch.ones(len(asked), device=logits.device) if there is None else there.float()
    shares = logits.masked_fill(left_out, float("-inf")).log_softmax(dim=1)
    lost = -shares.gather(1, own[:, None])[:, 0]
    if smoothing:
        spread = -shares.masked_fill(left_out, 0).sum(dim=1) / (~left_out).sum(dim=1)
        lost = (1 - smoothing) * lost + smoothing * spread
    parts = len(asked) / len(rows)
    return parts * (lost * counted[rows.start : rows.stop]).sum() / counted.sum().clamp(min=1)


def _left_out(count: int, same: Tensor | None, there: Tensor | None, device: torch.device) -> Tensor:
    """(B, B), true where a pair is neither positive nor negative."""
    left_out = torch.zeros(count, count, dtype=torch.bool, device=device) if same is None else same
    if there is not None:
        left_out = left_out | ~there[:, None] | ~there
    return left_out & ~torch.eye(count, dtype=torch.bool, device=device)


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    same: Tensor | None = None,
    there: Tensor | None = None,
    rows: range | None = None,
) -> Tensor:
    """SigLIP's loss: every pair of the batch is a yes-or-no question of its own.

    Args:
        image: (B, E), unit length.
        text: (B, E), unit length.
        scale: the learned inverse temperature, a positive scalar.
        bias: the learned bias, a scalar; starts near -10 because most pairs do not match.
        same: (B, B), true where a text is no negative for a picture; the diagonal is not looked at.
        there: (B,), false for rows that count for nothing.
        rows: of which pictures; all by default.

    Source: Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, algorithm 1.
    """
    rows = range(len(image)) if rows is None else rows
    logits = scale * image[rows.start : rows.stop] @ text.T + bias  # (rows, B)
    signs = 2 * torch.eye(len(image), device=logits.device)[rows.start : rows.stop] - 1
    lost = -F.logsigmoid(signs * logits)
    if same is None and there is None:
        return lost.sum() / len(rows)
    lost = lost.masked_fill(_left_out(len(image), same, there, logits.device)[rows.start : rows.stop], 0)
    counted = torch.ones(len(image), device=logits.device) if there is None else there.float()
    lost = lost * counted[rows.start : rows.stop, None]
    return len(image) / len(rows) * lost.sum() / counted.sum().clamp(min=1)


def distillation_loss(image: Tensor, names: Tensor, scale: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy between a classifier's opinion of pictures and ours, which goes through the names of its classes.

    Args:
        image: (B, E), unit length.
        names: (classes, E), the embedded class names, unit length.
        scale: inverse temperature, a positive scalar.
        teacher: (B, classes), the classifier's probabilities.

    Source: Hinton et al., *Distilling the Knowledge in a Neural Network*, equation 2.
    """
    return -(teacher * F.log_softmax(scale * image @ names.T, dim=-1)).sum(dim=-1).mean()
