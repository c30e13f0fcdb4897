"""The loss of a vision-language model on the tokens of answers.

Shapes: B rows, T tokens of a row, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beholder.training.bridge_losses import IGNORED


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each answer's next token, summed; prompt, picture and padding do not count.

    Args:
        logits: (B, S, V) of the last S of the T tokens, those before the answers' first tokens among them.
        labels: (B, T), `IGNORED` where nothing is learned.
    """
    following = labels[:, labels.shape[1] - logits.shape[1] + 1 :]
    learned = following != IGNORED
    return F.cross_entropy(logits[:, :-1][learned].float(), following[learned], reduction="sum")


def first_answer(labels: Tensor) -> int:
    """Return the position of the first token that is learned in any row."""
    return int(torch.nonzero((labels != IGNORED).any(0))[0])
