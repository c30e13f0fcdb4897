"""How the learning rate goes over a training, and which weights are held small."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

# Weights of more than one dimension that are no matrix of a layer, but vectors side by side.
NO_MATRICES = ("positions", "registers", "token_types", "class_token")


def cosine_schedule(progress: float, warmup: float, final: float = 0.0) -> float:
    """Share of the peak learning rate at ``progress`` (0 to 1) of the training: a straight rise, half a cosine down."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return final + (1 - final) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def parameter_groups(named: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: matrices of layers, which decay, all else, which does not, and single numbers.

    A norm, a bias, a position or a temperature that is pulled to nothing says less; a matrix only gets smoother.
    """
    matrices, others, numbers = [], [], []
    for name, weight in named:
        if weight.ndim == 0:
            numbers.append(weight)
        elif weight.ndim > 1 and name.rpartition(".")[2] not in NO_MATRICES:
            matrices.append(weight)
        else:
            others.append(weight)
    groups = [(matrices, weight_decay), (others, 0.0), (numbers, 0.0)]
    return [{"params": weights, "weight_decay": decay} for weights, decay in groups if weights]
