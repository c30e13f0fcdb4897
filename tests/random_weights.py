"""Random weights under which errors show."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def enlarge(network: Network, seed: int = 5) -> Network:
    """Enlarge random weights so that errors in the network change its output, and put it into evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.2 * noise if parameter.ndim < 2 else 0.3 * noise)
    return network.eval()
