"""The losses that pull a picture and its sentence together: pure functions of embeddings.

Shapes: B pairs, E the shared space. Row i of ``image`` belongs to row i of ``text``; every other row is a negative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """CLIP's symmetric cross-entropy over the batch.

    Args:
        image: (B, E), unit length.
        text: (B, E), unit length.
        scale: the learned inverse temperature, a positive scalar.
        smoothing: label smoothing, 0 to 1.

    Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, figure 3.
    """
    logits = scale * image @ text.T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    by_image = F.cross_entropy(logits, own, label_smoothing=smoothing)
    by_text = F.cross_entropy(logits.T, own, label_smoothing=smoothing)
    return (by_image + by_text) / 2


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's loss: every pair of the batch is a yes-or-no question of its own.

    Args:
        image: (B, E), unit length.
        text: (B, E), unit length.
        scale: the learned inverse temperature, a positive scalar.
        bias: the learned bias, a scalar; starts near -10 because most pairs do not match.

    Source: Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, algorithm 1.
    """
    logits = scale * image @ text.T + bias  # (B, B)
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


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
