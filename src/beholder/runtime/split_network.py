"""A network in two parts, so that a sensitive beginning can run in float32 and the rest in bfloat16."""

from __future__ import annotations

from typing import Any

from beholder.runtime.engine import openvino


def split_points(model: Any) -> list[str]:
    """Return the names of the residual additions of a network with one input, in order of execution."""
    if len(model.inputs) != 1:
        return []
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Add"
        and all(node.input_value(side).get_node().get_type_name() != "Constant" for side in (0, 1))
        and node.get_output_element_type(0).is_real()
    ]


def split_at(model: Any, name: str) -> tuple[Any, Any] | None:
    """Return copies of the parts before and after a node; None if the second needs more than the node's output.

    Args:
        model: network of OpenVINO.
        name: one of `split_points`.
    """
    ov = openvino()
    before, after = model.clone(), model.clone()
    end = next(node for node in before.get_ops() if node.get_friendly_name() == name)
    first = ov.Model([end.output(0)], before.get_parameters(), "before")
    begin = next(node for node in after.get_ops() if node.get_friendly_name() == name)
    entrance = ov.opset13.parameter(begin.get_output_partial_shape(0), begin.get_output_element_type(0))
    begin.output(0).replace(entrance.output(0))
    try:
        return first, ov.Model(after.get_results(), [entrance], "after")
    except RuntimeError:  # the pixels themselves, or an earlier layer's output, are needed as well
        return None
