"""Which way of computing a tower is the fastest that keeps a precision's promise: measured once, and remembered.

Tried are bfloat16, bfloat16 behind a beginning in single precision, and weights of eight bits. Single precision is the
reference: what is too far from it is not used however fast it is, and where nothing is faster, single precision stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beholder.files import write_text
from beholder.runtime import quantization, split_network
from beholder.runtime.engine import Stage, Stages, library, save
from beholder.runtime.precision import MARGIN, Precision, within_bound

SEARCH_MARGIN = 2.0  # a search, which goes as near to the bound as it can, keeps farther off than others
WORTH = 1.05  # times as fast as single precision, or it is not worth a change
ROUNDS = 3
PATIENCE = 4.0  # seconds after which no further round is timed


@dataclass(frozen=True)
class Choice:
    """How a tower is computed, and what was measured of it on this processor.

    Attributes:
        seconds: of a processor core, for one picture or sentence.
        cosine: the least between its vectors and those of single precision.
        gain: how many times as fast as single precision it was.
    """

    stages: tuple[Stage, ...]
    seconds: float
    cosine: float
    gain: float


@dataclass(frozen=True)
class Way:
    """A way that may be chosen: the networks of OpenVINO's, and how each is to be computed."""

    stages: tuple[Stage, ...]
    models: tuple[Any, ...]

    def ready(self) -> Stages:
        """To be run."""
        return Stages.of_models(self.models, self.stages)


def chosen(folder: Path, tower: str, precision: Precision, samples: Sequence[np.ndarray]) -> Choice:
    """The way that was chosen for a tower of a compiled model, measured now if it was not before.

    Args:
        folder: of the compiled model.
        tower: ``"image"`` or ``"text"``.
        precision: whose promise must be kept.
        samples: inputs to measure with, such as pixels (B, 3, H, W), or ids and mask (B, T).
    """
    kept = folder / f"{tower}-{precision}.json"
    if kept.is_file():
        held = json.loads(kept.read_text("utf-8"))
        return Choice(tuple(Stage(**stage) for stage in held.pop("stages")), **held)
    choice, models = choose(folder, tower, precision, samples)
    _keep(folder, choice, models, kept)
    return choice


def choose(
    folder: Path, tower: str, precision: Precision, samples: Sequence[np.ndarray]
) -> tuple[Choice, Sequence[Any]]:
    """Measures the ways that a precision may take, and gives the fastest that keeps its promise, with its networks."""
    model = library().Core().read_model(str(folder / f"{tower}.xml"))
    single = Way((Stage(f"{tower}.xml"),), (model,))
    run = single.ready()
    reference = unit(run(*samples))
    base = _seconds(run, samples)
    best, models = Choice(single.stages, base, 1.0, 1.0), single.models

    def taken(way: Way, margin: float = MARGIN) -> bool:
        """Takes the way if it is within the bound and the fastest so far; whether it is within the bound."""
        nonlocal best, models
        run = way.ready()
        cosine = float(np.sum(unit(run(*samples)) * reference, axis=1).min())
        if not within_bound(cosine, precision, margin):
            return False
        seconds = _seconds(run, samples)
        if seconds < min(best.seconds, base / WORTH):
            best, models = Choice(way.stages, seconds, cosine, base / seconds), way.models
        return True

    if not taken(Way((Stage(f"{tower}.xml", "bf16"),), (model,))):
        _shorten_beginning(model, f"{tower}-{precision}", taken)
    if precision == "fastest" and (sizes := quantization.group_sizes(model)):
        small = quantization.quantize_per_channel(model)
        for size in sizes:
            taken(Way((Stage(f"{tower}-int8.xml", "bf16", size),), (small,)))
    return best, models


def unit(vectors: np.ndarray) -> np.ndarray:
    """(B, E) at unit length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _shorten_beginning(model: Any, name: str, taken: Callable[[Way, float], bool]) -> None:
    """Looks for the shortest beginning in single precision behind which bfloat16 is near enough.

    In a convolutional network most of the loss comes from the first layers, which see the pixels themselves.
    """
    cuts = [
        parts
        for place in split_network.split_points(model)
        if (parts := split_network.split_at(model, place)) is not None
    ]
    stages = (Stage(f"{name}-before.xml"), Stage(f"{name}-after.xml", "bf16"))
    low, high = 0, len(cuts) - 1
    while low <= high:
        middle = (low + high) // 2
        if taken(Way(stages, cuts[middle]), SEARCH_MARGIN):
            high = middle - 1
        else:
            low = middle + 1


def _seconds(run: Stages, samples: Sequence[np.ndarray]) -> float:
    """Of the processor rather than on the clock, which other programs would disturb."""
    run(*samples)
    best, began = np.inf, time.perf_counter()
    for _ in range(ROUNDS):
        start = time.process_time()
        run(*samples)
        best = min(best, time.process_time() - start)
        if time.perf_counter() - began > PATIENCE:
            break
    return best / len(samples[0])


def _keep(folder: Path, choice: Choice, models: Sequence[Any], kept: Path) -> None:
    """Writes the networks that are not there yet, then the choice: what is there is whole."""
    for stage, model in zip(choice.stages, models, strict=True):
        if not (folder / stage.file).is_file():
            save(model, folder / stage.file)
    write_text(folder / kept.name, json.dumps(asdict(choice), indent=1))
