"""Networks in OpenVINO: compiled once for the processor, and run by any number of threads."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from beholder.files import atomic_files

KERNELS = "kernels"
TRIAL = """
import json, pathlib, sys
from beholder.runtime.engine import NetworkConfig, compile_network
folder, config, options = json.loads(sys.argv[1])
compile_network(pathlib.Path(folder), NetworkConfig(**config), **options)
"""
_FIRST_USE = threading.Lock()


@dataclass(frozen=True)
class NetworkConfig:
    """A network file and the arithmetic that it runs in.

    Attributes:
        file: the network, an .xml with its .bin beside it, in the compiled model's folder.
        precision: of products and activations, ``"f32"`` or ``"bf16"``.
        group_size: for weights of eight bits, how many values of a layer's input share the scale by which they are
            quantized to eight bits, too; 0 for none.
    """

    file: str
    precision: str = "f32"
    group_size: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """The options by OpenVINO's names."""
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.group_size,
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time on all cores
        }


class Network:
    """A compiled network without state. Threads may share it: each call takes an infer request from a pool.

    Args:
        compiled: OpenVINO's compiled model.
    """

    def __init__(self, compiled: Any):
        self.compiled = compiled
        self.idle: deque[Any] = deque()  # infer requests that no thread is using

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Return all outputs. A network with fewer inputs takes the first ones."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        try:
            arrays = list(inputs[: len(self.compiled.inputs)])
            found = request.infer(arrays, share_inputs=True, share_outputs=True)
            return [np.array(output) for output in found.values()]  # copies: the request's memory is reused
        finally:
            self.idle.append(request)


class NetworkSequence:
    """Networks of which each takes the first output of the one before."""

    def __init__(self, networks: Sequence[Network]):
        self.networks = networks

    @classmethod
    def read(cls, folder: Path, configs: Sequence[NetworkConfig]) -> NetworkSequence:
        """Compile networks from their files."""
        return cls([Network(compile_network(folder, config)) for config in configs])

    @classmethod
    def of_models(cls, models: Sequence[Any], configs: Sequence[NetworkConfig]) -> NetworkSequence:
        """Compile networks in memory, without caching their kernels."""
        core, pairs = openvino().Core(), zip(models, configs, strict=True)
        return cls([Network(core.compile_model(model, "CPU", config.options)) for model, config in pairs])

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of the last network."""
        first, *others = self.networks
        outputs = first(*inputs)
        for network in others:
            outputs = network(outputs[0])
        return outputs


def compile_network(folder: Path, config: NetworkConfig, **options: Any) -> Any:
    """Compile a network from its file; its kernels are cached in the folder.

    Args:
        folder: where the file is.
        config: the file and its arithmetic.
        options: further options of OpenVINO.
    """
    options = config.options | options
    # OpenVINO 2026.4 finds cached kernels by the file alone: those for float32 would run as bfloat16, and give NaN.
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
    # The cache includes the weights: in CACHE_MODE OPTIMIZE_SIZE, OpenVINO 2026.4 confuses some that are concatenated.
    cache = {"CACHE_DIR": str(folder / KERNELS / digest)}
    return openvino().Core().compile_model(str(folder / config.file), "CPU", options | cache)


def can_compile(folder: Path, config: NetworkConfig, **options: Any) -> bool:
    """Return whether `compile_network` succeeds, tried in a process of its own, which it may take down.

    OpenVINO 2026.4 divides by zero when it fuses the projections of Llama-like attention for bfloat16 on few cores.
    """
    request = json.dumps([str(folder), asdict(config), options])
    return subprocess.run([sys.executable, "-c", TRIAL, request], capture_output=True, check=False).returncode == 0


def save_network(model: Any, file: Path) -> None:
    """Write a network as an .xml with its .bin beside it."""
    with atomic_files(file.parent) as scratch:
        openvino().save_model(model, str(scratch / file.name), compress_to_fp16=False)


def available() -> bool:
    """Return whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports its use to a server on import."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with _FIRST_USE:
        import openvino

        # OpenVINO 2026.4 fills its tables of types on first use and waits for the interpreter's lock while it holds its
        # own: two threads that were the first to convert an array waited for each other forever.
        np.asarray(openvino.Tensor(np.zeros(1, np.float32)).data)
    return openvino
