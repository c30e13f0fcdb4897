"""Layers that a condition modulates: adaptive layer norm with gates that start at zero (arXiv:2212.09748, section 3.2).

Shapes: B batch, N tokens, D width, C width of the condition.
"""

import math

import torch
from torch import Tensor, nn

FREQUENCIES = 128  # of a time's embedding; each has a sine and a cosine
LONGEST_PERIOD = 10_000.0
TIME_SCALE = 1000.0  # the embedding is made for times 0 to 1000


class TimeEmbedding(nn.Module):
    """Times (B,) between 0 and 1 → (B, C): sines and cosines, and an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(2 * FREQUENCIES, width)
        self.down = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """(B,) → (B, C)."""
        exponents = torch.arange(FREQUENCIES, device=time.device) / FREQUENCIES
        angles = TIME_SCALE * time[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
        return self.down(nn.functional.silu(self.up(torch.cat([angles.cos(), angles.sin()], dim=1))))


class Modulation(nn.Module):
    """Condition (B, C) → ``parts`` vectors (B, D), all zero before training."""

    def __init__(self, condition: int, width: int, parts: int):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(condition, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """(B, C) → ``parts`` of (B, D)."""
        return self.linear(condition).chunk(self.parts, dim=-1)


def modulate(normalized: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale what a layer norm returned; the vectors broadcast."""
    return normalized * (1 + scale) + shift
