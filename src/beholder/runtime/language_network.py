"""A causal language model of transformers as one network of OpenVINO's that keeps what it has read.

Keys and values are the network's own states. ``beams`` says which row of them each row of a call goes on from, so
beams that part from one another share what they have read, and nothing is copied when they are chosen.

Inputs: ``vectors`` (B, T, D), words and soft prompts; ``allowed`` (B, 1, T, L), true where a token may look;
``positions`` (B, T); ``kept`` (n,), the tokens whose next word is asked for; ``beams`` (B,). Output: logits (B, n, V).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import ModelError
from beholder.runtime.engine import library

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.models.language_model import CausalLanguageModel

BEFORE = 4  # inputs in front of the keys and values


def language_network(language: CausalLanguageModel) -> Any:
    """The network, for ``openvino.save_model`` or ``compile_model``.

    Args:
        language: on the CPU, in single precision.

    Raises:
        ModelError: some of its layers forget what is far back, or hold something else than keys and values.
    """
    import torch

    openvino = library()
    past = _past(language)
    vectors = torch.randn(2, 3, language.width)
    known = past[0].shape[2]
    allowed = torch.ones(3, known + 3, dtype=torch.bool).tril(known).expand(2, 1, 3, known + 3)
    positions = torch.arange(known, known + 3).expand(2, 3)
    kept = torch.tensor([1, 2])
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that stay the same
        model = openvino.convert_model(
            _step(language), example_input=(vectors, allowed, positions, kept, *past), verbose=False
        )
    shapes = [[-1, -1, language.width], [-1, 1, -1, -1], [-1, -1], [-1]]
    shapes += [[-1, part.shape[1], -1, part.shape[3]] for part in past]
    for name, port in zip(("vectors", "allowed", "positions", "kept"), model.inputs, strict=False):
        port.get_tensor().set_names({name})
    for port, shape in zip(model.inputs, shapes, strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
    model.validate_nodes_and_infer_types()
    _keep_states(model, past)
    return model


def _past(language: CausalLanguageModel) -> list[Tensor]:
    """Keys and values of a few tokens, layer by layer: two rows (2, H, 5, D)."""
    import torch
    from transformers.cache_utils import DynamicLayer

    with torch.inference_mode():
        _, kv_cache = language.prefill(torch.randn(2, 5, language.width), torch.ones(2, 5, dtype=torch.bool))
    layers = kv_cache.cache.layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        raise ModelError("layers of this language model keep something else than all keys and values")
    return [part for layer in layers for part in (layer.keys, layer.values)]


def _step(language: CausalLanguageModel) -> Any:
    import torch
    from torch import nn

    class Past:
        """Stands for a cache of transformers while the network is traced."""

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
            self, vectors: Tensor, allowed: Tensor, positions: Tensor, kept: Tensor, *past: Tensor
        ) -> tuple[Tensor, ...]:
            cache = Past(past)
            hidden_states = self.language.hidden_states(vectors, allowed, positions, cache)
            return (self.language.lm_head(hidden_states.index_select(1, kept)), *cache.longer)

    return Step().eval()


def _keep_states(model: Any, past: list[Tensor]) -> None:
    """Turns the inputs and outputs for keys and values into states, chosen from by ``beams``."""
    openvino = library()
    operations = openvino.opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    beams = operations.parameter([-1], np.int32, name="beams")
    beams.output(0).get_tensor().set_names({"beams"})
    model.add_parameters([beams])
    first = operations.constant(np.int64(0))
    pairs = {}
    for number in range(len(past)):
        port, longer = model.inputs[BEFORE + number], model.outputs[1 + number]
        port.get_tensor().set_names({f"past {number}"})
        longer.get_tensor().set_names({f"longer {number}"})
        readers = port.get_target_inputs()
        chosen = operations.gather(port.get_node(), beams, first)
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
        pairs[f"past {number}"] = f"longer {number}"
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, pairs)
    rows = operations.gather(
        operations.shape_of(model.input("vectors").get_node(), output_type="i64"), operations.constant([0]), first
    )
    reading = [node for node in model.get_ops() if node.get_type_name() == "ReadValue"]
    for node in reading:  # at first there is nothing to go on from
        heads, width = (node.get_output_partial_shape(0)[axis].get_length() for axis in (1, 3))
        shape = operations.concat([rows, operations.constant([heads, 0, width])], 0)
        node.set_arguments([operations.broadcast(operations.constant(np.float32(0)), shape).output(0)])
    model.validate_nodes_and_infer_types()
