"""Contrast over a batch far larger than fits: the same gradients, with the activations of a few pairs at a time.

First all pairs are embedded without gradients. The loss of the whole batch is taken, and its gradient by every
embedding is kept. Then the pairs are embedded once more, a few at a time, and each time the kept gradients are sent
back through the network.

Source: Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup* (arXiv:2101.06983).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


class DualEncoderOutput(NamedTuple):
    """Pictures and texts (B, E), and the numbers that the loss needs: the inverse temperature, and perhaps a bias."""

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None


Part = TypeVar("Part")


def backward(
    embed: Callable[[Part], DualEncoderOutput],
    parts: Sequence[Part],
    loss: Callable[[DualEncoderOutput], Tensor],
    quiet: Callable[[bool], AbstractContextManager[None]],
) -> Tensor:
    """Adds to the weights' gradients those of the loss over all parts together; gives the loss.

    Args:
        embed: the network, which must give the same each time.
        parts: the batch, in one or more pieces.
        loss: of all embeddings.
        quiet: surrounds every pass back; told whether others will follow.
    """
    if len(parts) == 1:
        with quiet(False):
            lost = loss(embed(parts[0]))
            lost.backward()
        return lost.detach()
    with torch.no_grad():
        seen = [embed(part) for part in parts]
    last = seen[-1]
    joined = DualEncoderOutput(
        torch.cat([each.image for each in seen]).requires_grad_(),
        torch.cat([each.text for each in seen]).requires_grad_(),
        last.scale.detach().clone().requires_grad_(),
        None if last.bias is None else last.bias.detach().clone().requires_grad_(),
    )
    sizes = [len(each.image) for each in seen]
    del seen, last
    lost = loss(joined)
    lost.backward()
    kept = [_gradient(value).split(sizes) for value in (joined.image, joined.text)]
    for number, (part, by_image, by_text) in enumerate(zip(parts, *kept, strict=True), start=1):
        with quiet(number < len(parts)):
            again = embed(part)
            pairs = [(again.image, by_image), (again.text, by_text)]
            if number == len(parts):  # the numbers are no part's own
                pairs.append((again.scale, _gradient(joined.scale)))
                if again.bias is not None and joined.bias is not None:
                    pairs.append((again.bias, _gradient(joined.bias)))
            learned = [(value, gradient) for value, gradient in pairs if value.requires_grad]
            torch.autograd.backward([value for value, _ in learned], [gradient for _, gradient in learned])
    return lost.detach()


def _gradient(value: Tensor) -> Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad
