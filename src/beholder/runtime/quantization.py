"""Weight quantization to eight bits, a quarter of the memory, in two ways.

`quantize_per_channel`: twice as fast as bfloat16 on processors with eight-bit products. Symmetric, one scale per output
channel (Krishnamoorthi, *Quantizing deep convolutional networks for efficient inference*, arXiv:1806.08342, section
2.2). Activations are quantized dynamically, token by token, so no calibration images are needed.

`quantize_grouped`: products in float32. Groups of 32 weights share a scale and a zero point, as in GGUF files, and are
dequantized as they are read; a language model that generates few texts at a time is bound by reading its weights.
Weights from such a file lie on its grid, so quantizing them again is lossless.
"""

from __future__ import annotations

from collections import Counter
from math import gcd
from typing import Any

import numpy as np

from beholder.runtime.engine import openvino

MIN_GROUP = 32  # of the kernels
GROUP = 32  # weights
MAX_CODE = 255
TOLERANCE = 1e-6  # relative to a group's largest weight: the rounding of float32
CHUNK = 1 << 22  # weights processed at once


def quantize_per_channel(model: Any) -> Any:
    """Return a copy of a network with the weights of its linear layers in eight bits, one scale per output channel."""
    operations = openvino().opset13
    copy = model.clone()
    for layer in linear_layers(copy):
        weights = _weights(layer)
        scales = np.abs(weights).max(axis=1, keepdims=True) / 127
        scales[scales == 0] = 1  # an output whose weights are all zero
        rounded = np.rint(weights / scales).astype(np.int8)
        restored = operations.multiply(
            operations.convert(operations.constant(rounded), np.float32), operations.constant(scales)
        )
        _replace(layer, restored)
    copy.validate_nodes_and_infer_types()
    return copy


def quantize_grouped(model: Any, *, lossless: bool) -> Any:
    """Return a copy of a network with the weights of its linear layers in eight bits, with scales for groups of 32.

    Args:
        model: the network.
        lossless: skip layers of which any weight would change.
    """
    operations = openvino().opset13
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
    """Return group sizes for dynamic quantization of activations, largest first; none if convolutions prevail.

    The greatest common divisor of all layers' input sizes gives few scales per token; 64 isolates the outlier features
    of some networks (arXiv:2208.07339).
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
    return sorted((size for size in found if size >= MIN_GROUP and size <= min(widths)), reverse=True)


def _replace(layer: Any, weights: Any) -> None:
    """Replace a layer by one with these weights (outputs, inputs)."""
    attributes = layer.get_attributes()
    replacement = openvino().opset13.matmul(layer.input_value(0), weights, attributes["transpose_a"], True)
    replacement.set_friendly_name(layer.get_friendly_name())
    layer.output(0).replace(replacement.output(0))


def _codes(weights: np.ndarray, lossless: bool) -> tuple[np.ndarray, ...] | None:
    """Return codes (outputs, groups, 32), zero points and steps (outputs, groups, 1).

    None if ``lossless`` and a weight would change.
    """
    outputs, inputs = weights.shape
    rows = max(CHUNK // inputs, 1)
    parts = []
    for begin in range(0, outputs, rows):
        *found, mismatched = _grid(np.ascontiguousarray(weights[begin : begin + rows]).reshape(-1, GROUP))
        if lossless and mismatched:
            return None
        parts.append(found)
    return tuple(np.concatenate(part).reshape(outputs, inputs // GROUP, -1) for part in zip(*parts, strict=True))


def _grid(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Find the grid of each group of weights (N, 32), a weight being (code - zero point) * step.

    Returns:
        Codes (N, 32), zero points and steps (N, 1), and the number of groups that are on none of the grids tried: their
        weights are rounded to 256 values.
    """
    low, high = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
    largest = np.maximum(-low, high)
    spread = np.where(high > low, high - low, 1)
    differences = np.diff(np.sort(groups, 1), axis=1)
    differences[differences <= 4 * TOLERANCE * largest] = np.inf  # equal weights
    gap = np.minimum(differences.min(1, keepdims=True), spread)
    # The minimum plus a multiple of the step: q4_0, q4_1, q5_0, q5_1, q4_k, q5_k. The step is the smallest difference
    # of two weights, or a fraction of it if no two are neighbors on the grid.
    tried = [(spread / np.rint(spread / gap * part).clip(1, MAX_CODE), -low) for part in (1, 2, 3)]
    tried.append((largest / 127, largest))  # q8_0
    tried.append((spread / MAX_CODE, -low))
    codes, zeros, steps = np.empty(groups.shape, np.uint8), np.empty_like(low), np.empty_like(low)
    left = np.arange(len(groups))
    for step, offset in tried:
        weights, step, zero = groups[left], step[left], offset[left] / step[left]
        code = np.rint(weights / step + zero).clip(0, MAX_CODE)
        codes[left], zeros[left], steps[left] = code, zero, step
        left = left[(np.abs((code - zero) * step - weights) > TOLERANCE * largest[left]).any(1)]
        if not len(left):
            break
    return codes, zeros, steps, len(left)


def linear_layers(model: Any) -> list[Any]:
    """Return the products with a constant matrix."""

    def linear(node: Any) -> bool:
        if node.get_type_name() != "MatMul":
            return False
        source = node.input_value(1).get_node()
        return source.get_type_name() == "Constant" and len(source.get_output_shape(0)) == 2

    return [node for node in model.get_ordered_ops() if linear(node)]


def has_joint_projections(model: Any) -> bool:
    """Return whether three or more products without a bias share an input: queries, keys and values, as in Llama."""
    shared = Counter(
        (source.get_node().get_friendly_name(), source.get_index())
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MatMul"
        for source in (node.input_value(0),)
        if all(reader.get_node().get_type_name() != "Add" for reader in node.output(0).get_target_inputs())
    )
    return any(count >= 3 for count in shared.values())


def _weights(layer: Any) -> np.ndarray:
    """Return a linear layer's weights in float32: (outputs, inputs)."""
    matrix = layer.input_value(1).get_node().data.astype(np.float32, copy=False)
    return matrix if layer.get_attributes()["transpose_b"] else matrix.T
