"""Contrastive batches far larger than memory: the same gradients, with the activations of one micro-batch at a time.

First all pairs are embedded without gradients. The loss of the whole batch is computed, and its gradient with respect
to every embedding is cached. Then the pairs are embedded once more, one micro-batch at a time, and the cached gradients
are backpropagated through the network.

Source: Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup* (arXiv:2101.06983).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


class DualEncoderOutput(NamedTuple):
    """Embeddings (B, E) of images and texts, the inverse temperature, and the bias, if there is one."""

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None


Batch = TypeVar("Batch")


def backward(
    encode: Callable[[Batch], DualEncoderOutput],
    micro_batches: Sequence[Batch],
    loss: Callable[[DualEncoderOutput], Tensor],
    no_sync: Callable[[bool], AbstractContextManager[None]],
) -> Tensor:
    """Backpropagate the loss over all micro-batches together, and return it.

    Args:
        encode: the network, which must be deterministic.
        micro_batches: the batch, in one or more pieces.
        loss: of all embeddings.
        no_sync: context of every backward pass; called with whether another one follows.
    """
    if len(micro_batches) == 1:
        with no_sync(False):
            value = loss(encode(micro_batches[0]))
            value.backward()
        return value.detach()
    with torch.no_grad():
        outputs = [encode(part) for part in micro_batches]
    last = outputs[-1]
    whole = DualEncoderOutput(
        torch.cat([each.image for each in outputs]).requires_grad_(),
        torch.cat([each.text for each in outputs]).requires_grad_(),
        last.logit_scale.detach().clone().requires_grad_(),
        None if last.logit_bias is None else last.logit_bias.detach().clone().requires_grad_(),
    )
    sizes = [len(each.image) for each in outputs]
    del outputs, last
    value = loss(whole)
    value.backward()
    cached = [_gradient(tensor).split(sizes) for tensor in (whole.image, whole.text)]
    for number, (part, by_image, by_text) in enumerate(zip(micro_batches, *cached, strict=True), start=1):
        with no_sync(number < len(micro_batches)):
            output = encode(part)
            pairs = [(output.image, by_image), (output.text, by_text)]
            if number == len(micro_batches):  # the scalars belong to no micro-batch
                pairs.append((output.logit_scale, _gradient(whole.logit_scale)))
                if output.logit_bias is not None and whole.logit_bias is not None:
                    pairs.append((output.logit_bias, _gradient(whole.logit_bias)))
            trained = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad]
            torch.autograd.backward([tensor for tensor, _ in trained], [gradient for _, gradient in trained])
    return value.detach()


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
