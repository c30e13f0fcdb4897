"""Weights in eight bits: each row of a matrix as integers of -127 to 127 and one scale."""

from collections.abc import Mapping

import torch
from torch import Tensor

from beholder.errors import WeightsMismatch

SCALE = ".scale"  # ends the name of the scales of a matrix
SMALLEST = 4096  # entries; smaller tensors stay in half precision


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return large matrices in eight bits with their scales (rows, 1), and all other tensors in half precision."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().float()
        if values.ndim < 2 or values.numel() < SMALLEST:
            packed[name] = values.half().contiguous()
            continue
        rows = values.flatten(1)
        scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        packed[name] = (rows / scale).round().to(torch.int8).reshape(values.shape).contiguous()
        packed[name + SCALE] = scale
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `pack` was given, in single precision and but for rounding.

    Raises:
        WeightsMismatch: the scales of a matrix are missing, or there are scales without a matrix.
    """
    tensors: dict[str, Tensor] = {}
    matrices = {name for name, tensor in packed.items() if tensor.dtype == torch.int8}
    for name, tensor in packed.items():
        if name.removesuffix(SCALE) in matrices and name.endswith(SCALE):
            continue
        if name not in matrices:
            tensors[name] = tensor.float()
            continue
        scale = packed.get(name + SCALE)
        if scale is None or scale.shape != (len(tensor), 1):
            raise WeightsMismatch(f"{name}: the scales of its rows are missing or of another number")
        tensors[name] = (tensor.flatten(1) * scale).reshape(tensor.shape)
    return tensors
