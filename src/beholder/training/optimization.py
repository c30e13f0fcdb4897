"""What the trainings share of their optimization: AdamW, Muon, the learning-rate schedule, averaged weights."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# Parameters of more than one dimension that are vectors side by side, not the matrix of a layer.
NO_MATRICES = ("positions", "registers", "token_types", "class_token", "query_tokens", "position_bias")


def cosine_schedule(progress: float, warmup: float, min_lr_ratio: float = 0.0) -> float:
    """Return the learning rate's share of its peak after ``progress`` (0 to 1): linear warmup, then half a cosine."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def parameter_groups(
    named: Iterable[tuple[str, Tensor]], weight_decay: float, lr_scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Group parameters for an optimizer: matrices of layers, which decay, and all others, which do not.

    Decay smooths a matrix; a norm, a bias, a position or a temperature only loses information. Scalars are a group of
    their own.

    Args:
        named: parameters by name.
        weight_decay: of the matrices.
        lr_scales: factors of the learning rate by a part of a parameter's name, in groups of their own; the first
            that fits is taken.
    """
    groups: dict[tuple[float, int], list[Tensor]] = {}
    for name, weight in named:
        scale = next((each for part, each in (lr_scales or {}).items() if part in name), 1.0)
        scalar = weight.ndim == 0
        matrix = weight.ndim > 1 and name.rpartition(".")[2] not in NO_MATRICES
        groups.setdefault((scale, 2 if scalar else 0 if matrix else 1), []).append(weight)
    return [
        {"params": weights, "weight_decay": 0.0 if kind else weight_decay} | ({"lr_scale": scale} if scale != 1 else {})
        for (scale, kind), weights in sorted(groups.items(), key=lambda item: item[0])
    ]


def adamw(
    named: Iterable[tuple[str, Tensor]],
    learning_rate: float,
    weight_decay: float,
    eps: float = 1e-6,
    lr_scales: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """Return AdamW with CLIP's betas over `parameter_groups` (arXiv:2103.00020, table 18)."""
    groups = parameter_groups(named, weight_decay, lr_scales)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=eps, fused=True)


def muon(matrices: Iterable[Tensor], learning_rate: float, weight_decay: float, lr_scale: float) -> torch.optim.Muon:
    """Return Muon (arXiv:2502.16982) for matrices of hidden layers; its updates are about as large as AdamW's.

    Args:
        matrices: of two dimensions each.
        learning_rate: as for `adamw`.
        weight_decay: of the matrices.
        lr_scale: factor of the learning rate.
    """
    groups = [{"params": list(matrices), "lr_scale": lr_scale}]
    return torch.optim.Muon(groups, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups, multiplied by the ``lr_scale`` of those that have one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


class ExponentialMovingAverage:
    """Averages of named weights, as of ``torch.optim.swa_utils``: those after the first step, then a moving average.

    Args:
        weights: of a network, by name; they may be sharded.
        decay: share of an average that a step leaves as it is.
        warmup: let the decay rise with the number of steps n, as (1 + n) / (10 + n), until it reaches ``decay``, so
            that the average soon forgets the first weights (as TensorFlow's with ``num_updates``).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float, warmup: bool = False):
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}
        self.decay = decay
        self.warmup = warmup
        self.num_updates = 0

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Include the weights after a step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.warmup else self.decay
        share = 1 - decay if self.num_updates else 1.0
        torch._foreach_lerp_(list(self.weights.values()), [weights[name] for name in self.weights], share)
        self.num_updates += 1

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], num_updates: int) -> None:
        """Restore the averages of a checkpoint."""
        for name, average in self.weights.items():
            average.copy_(weights[name])
        self.num_updates = num_updates
