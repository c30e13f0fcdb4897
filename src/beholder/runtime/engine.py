"""OpenVINO as Beholder uses it: a tower is one compiled network, or several that take each other's output."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from beholder.files import atomic_files

KERNELS = "kernels"


@dataclass(frozen=True)
class Stage:
    """A part of a tower and how it is computed.

    Attributes:
        file: the network, an .xml with its .bin beside it, in the compiled model's folder.
        arithmetic: what is multiplied, and held between layers: ``"f32"`` or ``"bf16"``.
        group: for weights of eight bits, how many values of a layer's input share the scale with which they become
            eight bits, too; 0 leaves them as they are.
    """

    file: str
    arithmetic: str = "f32"
    group: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """OpenVINO's names for it."""
        return {
            "INFERENCE_PRECISION_HINT": self.arithmetic,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.group,
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time on all cores
        }


class Stages:
    """A tower that is ready to run."""

    def __init__(self, networks: Sequence[Any]):
        self.networks = networks

    @classmethod
    def read(cls, folder: Path, stages: Sequence[Stage]) -> Stages:
        """From files."""
        return cls([compiled(folder, stage) for stage in stages])

    @classmethod
    def of_models(cls, models: Sequence[Any], stages: Sequence[Stage]) -> Stages:
        """From networks in memory, kept nowhere."""
        core, pairs = library().Core(), zip(models, stages, strict=True)
        return cls([core.compile_model(model, "CPU", stage.options) for model, stage in pairs])

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """The last stage's output. The first takes as many of the inputs as it has."""
        first, *others = self.networks
        output = first(list(inputs[: len(first.inputs)]))[0]
        for network in others:
            output = network([output])[0]
        return np.array(output)  # the memory that OpenVINO gave is used again


def compiled(folder: Path, stage: Stage, **options: Any) -> Any:
    """A network from its file, ready to run; what the processor runs is kept beside it for the next time.

    Args:
        folder: where the file lies.
        stage: the file, and how it is computed.
        options: of OpenVINO's, beside the stage's own.
    """
    options = stage.options | options
    # OpenVINO 2026.4 finds cached kernels by the file alone: those for float32 would run as bfloat16, and give NaN.
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
    # With the weights once more: in CACHE_MODE OPTIMIZE_SIZE, OpenVINO 2026.4 takes wrong ones where some are joined.
    cache = {"CACHE_DIR": str(folder / KERNELS / digest)}
    return library().Core().compile_model(str(folder / stage.file), "CPU", options | cache)


def save(model: Any, file: Path) -> None:
    """Writes a network as an .xml with its .bin beside it."""
    with atomic_files(file.parent) as scratch:
        library().save_model(model, str(scratch / file.name), compress_to_fp16=False)


def available() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def library() -> Any:
    """OpenVINO, without the part of it that reports its use to a server whenever it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
