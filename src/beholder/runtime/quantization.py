"""Weights of eight bits, a quarter of the memory, in two ways.

`quantised`: multiplied twice as fast as bfloat16 where a processor can. Each output of a layer has a scale of its own,
the largest weight being 127 (symmetric, per channel: Krishnamoorthi, *Quantizing deep convolutional networks for
efficient inference*, arXiv:1806.08342, section 2.2). What a layer gets is brought to eight bits while it runs, each
token by itself, so no pictures are needed to find ranges.

`grouped`: multiplied in single precision. Thirty-two weights of an output share a scale and a zero point, as in GGUF's
files, and are widened as they are read; a language model that writes few texts at a time waits for little but its
weights. Those that came out of such a file lie on its grid, so none is changed.
"""

from __future__ import annotations

from collections import Counter
from math import gcd
from typing import Any

import numpy as np

from beholder.runtime.engine import library

SMALLEST_GROUP = 32  # what the kernels handle
GROUP = 32  # weights
LARGEST = 255  # code
LOST = 1e-6  # of a group's largest weight, which is single precision's own rounding
AT_ONCE = 1 << 22  # weights


def quantize_per_channel(model: Any) -> Any:
    """A copy of a network of OpenVINO's with the weights of its linear layers in eight bits."""
    openvino = library()
    operations = openvino.opset13
    copy = model.clone()
    for layer in linear_layers(copy):
        weights = _weights(layer)
        scales = np.abs(weights).max(axis=1, keepdims=True) / 127
        scales[scales == 0] = 1  # an output without weights
        rounded = np.rint(weights / scales).astype(np.int8)
        restored = operations.multiply(
            operations.convert(operations.constant(rounded), np.float32), operations.constant(scales)
        )
        _replace(layer, restored)
    copy.validate_nodes_and_infer_types()
    return copy


def quantize_grouped(model: Any, *, lossless: bool) -> Any:
    """A copy of a network of OpenVINO's with codes of eight bits for the weights of its linear layers.

    Args:
        model: the network.
        lossless: leaves a layer as it is where codes would change a weight.
    """
    operations = library().opset13
    copy = model.clone()
    for layer in linear_layers(copy):
        weights = _weights(layer)
        if weights.shape[1] % GROUP or (found := _codes(weights, lossless)) is None:
            continue
        codes, zeros, steps = (operations.constant(part) for part in found)
        centred = operations.subtract(operations.convert(codes, np.float32), zeros)
        restored = operations.reshape(
            operations.multiply(centred, steps), operations.constant(np.array(weights.shape)), False
        )
        _replace(layer, restored)
    copy.validate_nodes_and_infer_types()
    return copy


def group_sizes(model: Any) -> list[int]:
    """The sizes of groups of inputs that fit the linear layers, the largest first; none if linear layers are few.

    The largest number that divides every layer's inputs gives one scale to most of a token; 64 keeps apart the few
    large values that some networks have (arXiv:2208.07339).
    """
    widths: Counter[int] = Counter()
    for layer in linear_layers(model):
        weights = _weights(layer)
        widths[weights.shape[1]] += weights.size
    others = sum(
        int(np.prod(node.get_output_shape(0)))
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 4  # of convolutions
    )
    if sum(widths.values()) <= others:
        return []
    found = {gcd(*widths), widths.most_common(1)[0][0], 64}
    return sorted((size for size in found if size >= SMALLEST_GROUP and size <= min(widths)), reverse=True)


def _replace(layer: Any, weights: Any) -> None:
    """Puts a product with these weights (outputs, inputs) in the place of one with a constant."""
    attributes = layer.get_attributes()
    made = library().opset13.matmul(layer.input_value(0), weights, attributes["transpose_a"], True)
    made.set_friendly_name(layer.get_friendly_name())
    layer.output(0).replace(made.output(0))


def _codes(weights: np.ndarray, lossless: bool) -> tuple[np.ndarray, ...] | None:
    """Codes (outputs, groups, 32), zero points and steps (outputs, groups, 1).

    None where they should not change a weight, and would.
    """
    outputs, inputs = weights.shape
    rows = max(AT_ONCE // inputs, 1)
    parts = []
    for begin in range(0, outputs, rows):
        *found, lost = _grid(np.ascontiguousarray(weights[begin : begin + rows]).reshape(-1, GROUP))
        if lossless and lost:
            return None
        parts.append(found)
    return tuple(np.concatenate(part).reshape(outputs, inputs // GROUP, -1) for part in zip(*parts, strict=True))


def _grid(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The grids that groups (N, 32) lie on, a weight being (code - zero point) * step.

    Returns:
        Codes (N, 32), zero points and steps (N, 1), and how many groups lie on none of the grids that were tried:
        their weights are rounded to 256 values.
    """
    low, high = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
    largest = np.maximum(-low, high)
    spread = np.where(high > low, high - low, 1)
    apart = np.diff(np.sort(groups, 1), axis=1)
    apart[apart <= 4 * LOST * largest] = np.inf  # the same weight twice
    gap = np.minimum(apart.min(1, keepdims=True), spread)
    # The smallest weight and a whole number of steps: q4_0, q4_1, q5_0, q5_1, q4_k, q5_k. A step is the least distance
    # of two weights, or a part of it where none are neighbours on the grid.
    tried = [(spread / np.rint(spread / gap * part).clip(1, LARGEST), -low) for part in (1, 2, 3)]
    tried.append((largest / 127, largest))  # q8_0
    tried.append((spread / LARGEST, -low))
    codes, zeros, steps = np.empty(groups.shape, np.uint8), np.empty_like(low), np.empty_like(low)
    left = np.arange(len(groups))
    for step, offset in tried:
        weights, step, zero = groups[left], step[left], offset[left] / step[left]
        code = np.rint(weights / step + zero).clip(0, LARGEST)
        codes[left], zeros[left], steps[left] = code, zero, step
        left = left[(np.abs((code - zero) * step - weights) > LOST * largest[left]).any(1)]
        if not len(left):
            break
    return codes, zeros, steps, len(left)


def linear_layers(model: Any) -> list[Any]:
    """Each product with a constant matrix."""

    def linear(node: Any) -> bool:
        if node.get_type_name() != "MatMul":
            return False
        source = node.input_value(1).get_node()
        return source.get_type_name() == "Constant" and len(source.get_output_shape(0)) == 2

    return [node for node in model.get_ordered_ops() if linear(node)]


def _weights(layer: Any) -> np.ndarray:
    """Of a linear layer, in single precision: (outputs, inputs)."""
    matrix = layer.input_value(1).get_node().data.astype(np.float32, copy=False)
    return matrix if layer.get_attributes()["transpose_b"] else matrix.T
