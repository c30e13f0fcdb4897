"""A network in two parts, so that its sensitive beginning can be computed in single precision and the rest faster."""

from __future__ import annotations

from typing import Any

from beholder.runtime.engine import library


def split_points(model: Any) -> list[str]:
    """Where a network of one input can be cut: the sums of its residual stream, in the order of computing."""
    if len(model.inputs) != 1:
        return []
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Add"
        and all(node.input_value(side).get_node().get_type_name() != "Constant" for side in (0, 1))
        and node.get_output_element_type(0).is_real()
    ]


def split_at(model: Any, place: str) -> tuple[Any, Any] | None:
    """Copies of what comes up to a place, and of what comes after it; None if more than that one value is needed after.

    Args:
        model: of OpenVINO.
        place: one of `places`.
    """
    openvino = library()
    before, after = model.clone(), model.clone()
    end = next(node for node in before.get_ops() if node.get_friendly_name() == place)
    first = openvino.Model([end.output(0)], before.get_parameters(), "before")
    begin = next(node for node in after.get_ops() if node.get_friendly_name() == place)
    entrance = openvino.opset13.parameter(begin.get_output_partial_shape(0), begin.get_output_element_type(0))
    begin.output(0).replace(entrance.output(0))
    try:
        return first, openvino.Model(after.get_results(), [entrance], "after")
    except RuntimeError:  # the pixels themselves, or an earlier layer's output, are needed as well
        return None
