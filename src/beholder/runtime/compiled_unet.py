"""The denoiser of a pipeline of diffusers compiled for the processor by OpenVINO; the other parts stay in torch.

    unet.json            metadata
    unet.xml             the network, with its weights in unet.bin
    unet-fast.json, …    the configuration chosen for a precision (`beholder.runtime.compiled_denoiser`)
    kernels/             OpenVINO's cache

What a denoiser takes beside sample and time depends on the pipeline, so the calls of a drawing are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beholder.errors import ModelError
from beholder.runtime.compiled_denoiser import Call, choose, verify
from beholder.runtime.compiled_model import CompiledFormat, convert
from beholder.runtime.engine import Network, NetworkConfig, compile_network
from beholder.runtime.precision import Precision

PART = "unet"
MOST_CONDITIONS = 3


@dataclass(frozen=True)
class RecordedUNet:
    """A denoiser and its calls in a drawing.

    Attributes:
        unet: of diffusers, a ``UNet2DConditionModel``.
        names: of its inputs: ``sample``, ``timestep``, and conditions.
        calls: their values.
    """

    unet: Any
    names: tuple[str, ...]
    calls: Sequence[Call]

    def predict(self, *inputs: np.ndarray) -> np.ndarray:
        """Return what the denoiser predicts, in torch."""
        with torch.inference_mode():
            found: np.ndarray = _Denoiser(self.unet, self.names)(*map(torch.from_numpy, inputs)).numpy()
        return found


@dataclass(frozen=True)
class CompiledUNet:
    """The contents of a compiled folder.

    Attributes:
        names: of the denoiser's inputs.
    """

    folder: Path
    names: tuple[str, ...]

    def network(self, config: NetworkConfig) -> Network:
        """Return the denoiser in a configuration."""
        return Network(compile_network(self.folder, config))


def compile_unet(unet: Any, folder: Path, precision: Precision, draw: Callable[[], object]) -> None:
    """Let a denoiser run in its compiled form wherever that is faster within a precision's bound.

    It is compiled on first use for a pipeline and processor, and verified; then the fastest configuration is measured.
    Both are remembered.

    Args:
        unet: of a pipeline of diffusers on the CPU. Its ``forward`` is replaced.
        folder: of the pipeline.
        precision: whose bound must be kept.
        draw: draws a picture of the default size by this denoiser.

    Raises:
        ModelError: the denoiser can't be compiled, or would predict something else.
    """

    @cache
    def record() -> RecordedUNet:
        return _record(unet, draw)

    compiled = COMPILED_UNET.find(folder)
    if compiled is None:
        compiled = COMPILED_UNET.compile(record(), folder)
    config = choose(compiled.folder, PART, precision, lambda: record().calls, lambda *inputs: record().predict(*inputs))
    if config is not None:
        unet.forward = CompiledForward(compiled.network(config), compiled.names, unet)


class CompiledForward:
    """Takes the place of a denoiser's ``forward``. Calls that it was not compiled for run in torch.

    Args:
        network: the compiled denoiser.
        names: of its inputs.
        unet: the denoiser in torch.
    """

    def __init__(self, network: Network, names: Sequence[str], unet: Any):
        self.network = network
        self.names = tuple(names)
        self.original = unet.forward
        self.multiple = 2**unet.num_upsamplers  # other sides need the sizes of all levels, which are traced as constant

    def __call__(self, sample: Tensor, timestep: Any, *arguments: Any, **options: Any) -> Any:
        """As ``UNet2DConditionModel.forward``."""
        inputs = _inputs(sample, timestep, *arguments, **options)
        whole = all(side % self.multiple == 0 for side in sample.shape[2:])
        if inputs is not None and tuple(inputs) == self.names and whole and not options.get("return_dict", True):
            predicted = self.network(*(_array(value) for value in inputs.values()))[0]
            if np.isfinite(predicted).all():  # in bfloat16, an unusual input may overflow
                return (torch.from_numpy(predicted),)
        return self.original(sample, timestep, *arguments, **options)


def _inputs(
    sample: Tensor,
    timestep: Any,
    encoder_hidden_states: Tensor | None = None,
    *,
    added_cond_kwargs: dict[str, Any] | None = None,
    return_dict: bool = True,
    **others: Any,
) -> dict[str, Tensor] | None:
    """Return the inputs of a call by name; None if it has others than a compiled denoiser takes."""
    inputs = {"sample": sample, "timestep": torch.as_tensor(timestep, dtype=torch.float32).reshape(1)}
    if encoder_hidden_states is not None:
        inputs["encoder_hidden_states"] = encoder_hidden_states
    inputs |= added_cond_kwargs or {}
    plain = all(isinstance(value, Tensor) for value in inputs.values())
    return inputs if plain and all(value is None for value in others.values()) else None


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().contiguous().numpy()
    return array


def _record(unet: Any, draw: Callable[[], object]) -> RecordedUNet:
    """Draw a picture, and return the calls of the denoiser.

    Raises:
        ModelError: they have inputs that a compiled denoiser does not take.
    """
    original = unet.forward
    calls: list[dict[str, Tensor] | None] = []

    def forward(*arguments: Any, **options: Any) -> Any:
        calls.append(_inputs(*arguments, **options))
        return original(*arguments, **options)

    unet.forward = forward
    try:
        draw()
    finally:
        del unet.forward  # the method of its class shows again
    taken = [inputs for inputs in calls if inputs is not None]
    if not taken or len(taken) < len(calls) or not 1 <= len(taken[0]) - 2 <= MOST_CONDITIONS:
        raise ModelError("its denoiser takes other inputs than those that can be compiled")
    return RecordedUNet(unet, tuple(taken[0]), [[_array(value) for value in inputs.values()] for inputs in taken])


class _Denoiser(nn.Module):
    """A denoiser whose inputs have no names; a tracer takes no dictionary."""

    def __init__(self, unet: nn.Module, names: Sequence[str]):
        super().__init__()
        self.unet = unet
        self.names = names[2:]

    def forward(
        self, sample: Tensor, timestep: Tensor, first: Tensor, second: Tensor | None = None, third: Tensor | None = None
    ) -> Tensor:
        given = dict(zip(self.names, (first, second, third), strict=False))
        tokens = given.pop("encoder_hidden_states", None)
        predicted: Tensor = self.unet(sample, timestep, tokens, added_cond_kwargs=given or None, return_dict=False)[0]
        return predicted


def _read(folder: Path, metadata: dict[str, Any]) -> CompiledUNet:
    return CompiledUNet(folder, tuple(metadata["names"]))


def _metadata(recorded: RecordedUNet) -> dict[str, Any]:
    return {"names": list(recorded.names)}


def _convert(recorded: RecordedUNet, folder: Path) -> None:
    inputs = [torch.from_numpy(array) for array in recorded.calls[0]]
    sample, timestep, *conditions = inputs
    shapes = [[-1, sample.shape[1], -1, -1], [*timestep.shape], *([-1, *each.shape[1:]] for each in conditions)]
    convert(_Denoiser(recorded.unet, recorded.names), inputs, shapes, folder / f"{PART}.xml")


def _verify(compiled: CompiledUNet, recorded: RecordedUNet) -> None:
    network = compiled.network(NetworkConfig(f"{PART}.xml"))
    verify("denoiser", lambda *inputs: network(*inputs)[0], recorded.predict, recorded.calls)


def _no_mini() -> Path:
    raise ModelError("mini is no pipeline of diffusers")


COMPILED_UNET = CompiledFormat(
    "unet.json",
    1,
    _no_mini,
    _read,
    _metadata,
    lambda recorded, folder: None,
    _convert,
    _verify,
    packages=("diffusers",),
    prefix="unet-",
)
