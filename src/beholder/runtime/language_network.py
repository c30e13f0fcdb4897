"""A causal language model of transformers as a stateful network of OpenVINO.

Keys and values are states of the network. ``beam_idx`` selects the row of the cache that each row of a call continues,
so beams with a common prefix share its keys and values, and reordering beams copies nothing beforehand.

Inputs: ``inputs_embeds`` (B, T, D), tokens and soft prompts; ``attention_mask`` (B, 1, T, L), true where attention is
allowed; ``position_ids`` (B, T); ``logit_indices`` (n,), the positions whose logits are returned; ``beam_idx`` (B,).
Output: logits (B, n, V).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import ModelError
from beholder.runtime.engine import openvino

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.models.language_model import CausalLanguageModel

INPUTS = 4  # before the keys and values


def language_network(language: CausalLanguageModel) -> Any:
    """Convert a language model, for ``openvino.save_model`` or ``compile_model``.

    Args:
        language: the model, on the CPU in float32.

    Raises:
        ModelError: some of its layers have a sliding window or other state than keys and values.
    """
    import torch

    ov = openvino()
    past = _past(language)
    embeddings = torch.randn(2, 3, language.width)
    known = past[0].shape[2]
    allowed = torch.ones(3, known + 3, dtype=torch.bool).tril(known).expand(2, 1, 3, known + 3)
    positions = torch.arange(known, known + 3).expand(2, 3)
    indices = torch.tensor([1, 2])
    with warnings.catch_warnings(), _quiet_transformers(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer warns of shapes that it takes as constant
        model = ov.convert_model(
            _step(language), example_input=(embeddings, allowed, positions, indices, *past), verbose=False
        )
    shapes = [[-1, -1, language.width], [-1, 1, -1, -1], [-1, -1], [-1]]
    shapes += [[-1, part.shape[1], -1, part.shape[3]] for part in past]
    for name, port in zip(
        ("inputs_embeds", "attention_mask", "position_ids", "logit_indices"), model.inputs, strict=False
    ):
        port.get_tensor().set_names({name})
    for port, shape in zip(model.inputs, shapes, strict=True):
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    model.validate_nodes_and_infer_types()
    _make_stateful(model, past)
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Log errors only: the tracer reads every property of the module, and ``loss_function`` warns when it is read."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _past(language: CausalLanguageModel) -> list[Tensor]:
    """Return example keys and values, layer by layer, each (2, H, 5, D)."""
    import torch
    from transformers.cache_utils import DynamicLayer

    with torch.inference_mode():
        _, kv_cache = language.prefill(torch.randn(2, 5, language.width), torch.ones(2, 5, dtype=torch.bool))
    layers = kv_cache.cache.layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        raise ModelError("layers of this language model have other state than all keys and values")
    return [part for layer in layers for part in (layer.keys, layer.values)]


def _step(language: CausalLanguageModel) -> Any:
    import torch
    from torch import nn

    class Past:
        """A stand-in for a cache of transformers during tracing."""

        is_compileable = False

        def __init__(self, parts: tuple[Tensor, ...]):
            self.parts = parts
            self.longer: list[Tensor] = []

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return int(self.parts[2 * layer_idx].shape[2])

        def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            before = self.parts[2 * layer_idx : 2 * layer_idx + 2]
            both = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
            self.longer += both
            return both

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language = language

        def forward(
            self, embeddings: Tensor, allowed: Tensor, positions: Tensor, indices: Tensor, *past: Tensor
        ) -> tuple[Tensor, ...]:
            cache = Past(past)
            hidden_states = self.language.hidden_states(embeddings, allowed, positions, cache)
            return (self.language.lm_head(hidden_states.index_select(1, indices)), *cache.longer)

    return Step().eval()


def _make_stateful(model: Any, past: list[Tensor]) -> None:
    """Turn the inputs and outputs for keys and values into states, gathered by ``beam_idx``."""
    operations = openvino().opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    beam_idx = operations.parameter([-1], np.int32, name="beam_idx")
    beam_idx.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam_idx])
    first = operations.constant(np.int64(0))
    pairs = {}
    for number in range(len(past)):
        port, longer = model.inputs[INPUTS + number], model.outputs[1 + number]
        port.get_tensor().set_names({f"past {number}"})
        longer.get_tensor().set_names({f"longer {number}"})
        readers = port.get_target_inputs()
        chosen = operations.gather(port.get_node(), beam_idx, first)
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
        pairs[f"past {number}"] = f"longer {number}"
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, pairs)
    rows = operations.gather(
        operations.shape_of(model.input("inputs_embeds").get_node(), output_type="i64"), operations.constant([0]), first
    )
    reading = [node for node in model.get_ops() if node.get_type_name() == "ReadValue"]
    for node in reading:  # initially empty
        heads, width = (node.get_output_partial_shape(0)[axis].get_length() for axis in (1, 3))
        shape = operations.concat([rows, operations.constant([heads, 0, width])], 0)
        node.set_arguments([operations.broadcast(operations.constant(np.float32(0)), shape).output(0)])
    model.validate_nodes_and_infer_types()
