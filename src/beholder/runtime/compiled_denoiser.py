"""How a compiled denoiser runs: the network that a generator evaluates at each step of the sampling.

Ways to run it are compared on recorded calls, such as those of a drawing. What is compared is what the network predicts
of each sample, as one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from beholder.errors import ModelError
from beholder.runtime import quantization
from beholder.runtime.autotune import Autotuner, Candidate, Workload, min_cosine, remember, remembered, unit
from beholder.runtime.engine import NetworkConfig, NetworkSequence, openvino, save_network
from beholder.runtime.precision import Precision

EXACT = 1 - 1e-6  # minimum cosine between a network compiled for single precision and its original
Call = Sequence[np.ndarray]  # inputs; of a batch (B, …) first
Predict = Callable[..., np.ndarray]  # of the inputs of a call


def predictions(predict: Predict, calls: Sequence[Call]) -> np.ndarray:
    """Return what a network predicts of the samples of all calls, a vector each."""
    return np.concatenate([predict(*inputs).reshape(len(inputs[0]), -1) for inputs in calls])


def verify(part: str, found: Predict, expected: Predict, calls: Sequence[Call]) -> None:
    """Compare a compiled network with the original on calls, each as it is and with its first sample alone.

    Raises:
        ModelError: they differ by more than another order of additions explains.
    """
    each = [*calls, *(first_sample(inputs) for inputs in calls)]
    cosine = min_cosine(predictions(found, each), unit(predictions(expected, each)))
    if not cosine >= EXACT:
        raise ModelError(f"the compiled {part} predicts something else (cosine {cosine:.6f})")


def first_sample(inputs: Call) -> Call:
    """Return the call with the first sample alone."""
    batch = len(inputs[0])
    return [array[:1] if len(array) == batch else array for array in inputs]


def choose(
    folder: Path,
    part: str,
    precision: Precision,
    record: Callable[[], Sequence[Call]],
    original: Predict | None = None,
) -> NetworkConfig | None:
    """Return the fastest configuration of a denoiser within a precision's bound; measured once, then remembered.

    Candidates are single precision, bfloat16, and for ``"fastest"`` weights of eight bits.

    Args:
        folder: of the compiled model.
        part: name of the network's file, without ``.xml``.
        precision: whose bound must be kept.
        record: returns calls to measure with.
        original: the network in torch, if it may be chosen: None is returned where nothing else is faster.
    """
    file = folder / f"{part}-{precision}.json"
    choice = remembered(file)
    if choice is None or not (choice.config is None or (folder / choice.config["file"]).is_file()):
        choice = remember(_tune(folder, part, precision, record(), original), file)
    return None if choice.config is None else NetworkConfig(**choice.config)


def _tune(folder: Path, part: str, precision: Precision, calls: Sequence[Call], original: Predict | None) -> Autotuner:
    model = openvino().Core().read_model(str(folder / f"{part}.xml"))

    def candidate(config: NetworkConfig, network: Any) -> Candidate:
        def load() -> Workload:
            run = NetworkSequence.of_models([network], [config])
            return _workload(lambda *inputs: run(*inputs)[0], calls)

        def save() -> None:
            if not (folder / config.file).is_file():
                save_network(network, folder / config.file)

        return Candidate(asdict(config), load, save)

    single = candidate(NetworkConfig(f"{part}.xml"), model)
    if original is None:
        tuner = Autotuner(single, precision)
    else:
        tuner = Autotuner(Candidate(None, partial(_workload, original, calls)), precision)
        tuner.consider(single)
    tuner.consider(candidate(NetworkConfig(f"{part}.xml", "bf16"), model))
    if precision == "fastest" and (sizes := quantization.group_sizes(model)):
        quantized = quantization.quantize_per_channel(model)
        for size in sizes:
            tuner.consider(candidate(NetworkConfig(f"{part}-int8.xml", "bf16", size), quantized))
    return tuner


def _workload(predict: Predict, calls: Sequence[Call]) -> Workload:
    return Workload(lambda: predictions(predict, calls), [lambda: predict(*calls[0])])
