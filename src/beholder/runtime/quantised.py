"""Weights of eight bits: a quarter of the memory, and multiplied twice as fast as bfloat16 where a processor can.

Each output of a layer has a scale of its own, the largest weight being 127 (symmetric, per channel: Krishnamoorthi,
*Quantizing deep convolutional networks for efficient inference*, arXiv:1806.08342, section 2.2). What a layer gets is
brought to eight bits while it runs, each token by itself, so no pictures are needed to find ranges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import gcd
from typing import Any

import numpy as np

from beholder.runtime.engine import library

SMALLEST_GROUP = 32  # what the kernels handle


def quantised(model: Any) -> Any:
    """A copy of a network of OpenVINO's with the weights of its linear layers in eight bits."""
    openvino = library()
    operations = openvino.opset13
    copy = model.clone()
    for layer, weights in list(_linear_layers(copy)):
        if not layer.get_attributes()["transpose_b"]:
            weights = weights.T
        scales = np.abs(weights).max(axis=1, keepdims=True) / 127
        scales[scales == 0] = 1  # an output without weights
        rounded = np.rint(weights / scales).astype(np.int8)
        restored = operations.multiply(
            operations.convert(operations.constant(rounded), np.float32), operations.constant(scales)
        )
        made = operations.matmul(layer.input_value(0), restored, layer.get_attributes()["transpose_a"], True)
        made.set_friendly_name(layer.get_friendly_name())
        layer.output(0).replace(made.output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def groups(model: Any) -> list[int]:
    """The sizes of groups of inputs that fit the linear layers, the largest first; none if linear layers are few.

    The largest number that divides every layer's inputs gives one scale to most of a token; 64 keeps apart the few
    large values that some networks have (arXiv:2208.07339).
    """
    widths: Counter[int] = Counter()
    for layer, weights in _linear_layers(model):
        widths[weights.shape[1 if layer.get_attributes()["transpose_b"] else 0]] += weights.size
    others = sum(
        int(np.prod(node.get_output_shape(0)))
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 4  # of convolutions
    )
    if sum(widths.values()) <= others:
        return []
    found = {gcd(*widths), widths.most_common(1)[0][0], 64}
    return sorted((size for size in found if size >= SMALLEST_GROUP and size <= min(widths)), reverse=True)


def _linear_layers(model: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Each product with a constant matrix, and that matrix in single precision."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            source = node.input_value(1).get_node()
            if source.get_type_name() == "Constant" and len(source.get_output_shape(0)) == 2:
                yield node, source.data.astype(np.float32)
