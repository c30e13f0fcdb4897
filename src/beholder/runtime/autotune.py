"""Find the fastest way to run a network whose outputs stay within a precision's bound, and remember it.

Candidates are compared with a reference, the network in float32, on the same samples. One that is too far from the
reference, or whose outputs are not finite, is never chosen, however fast; if none is faster, the reference stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beholder.files import write_text
from beholder.runtime.precision import Precision, within_bound

MIN_SPEEDUP = 1.05  # over the reference; less is not worth a loss of precision
ROUNDS = 3  # of which the fastest counts
PATIENCE = 4.0  # seconds after which no further round is timed


@dataclass(frozen=True)
class Workload:
    """A network that is ready to run on samples.

    Attributes:
        output: returns its outputs (…, D), of which the vectors along the last axis are compared.
        timed: the calls whose time counts, as a geometric mean; by default, ``output``.
    """

    output: Callable[[], np.ndarray]
    timed: Sequence[Callable[[], object]] = ()


@dataclass(frozen=True)
class Candidate:
    """A way to run a network.

    Attributes:
        config: JSON values that describe it.
        load: makes it ready to run.
        save: writes the files that it needs, if it is chosen.
    """

    config: Any
    load: Callable[[], Workload]
    save: Callable[[], object] | None = None


@dataclass(frozen=True)
class Choice:
    """The chosen way to run a network.

    Attributes:
        config: of the candidate.
        seconds: time of its workload.
        cosine: minimum between its outputs and those of the reference.
        speedup: over the reference.
    """

    config: Any
    seconds: float
    cosine: float
    speedup: float


class Autotuner:
    """Compare candidates with a reference, and keep the fastest within the bound as ``best``.

    Args:
        reference: the network in float32.
        precision: whose bound must be kept.
        wall_clock: time by the clock, as is right for a GPU. By default, the processor time of all threads is
            measured, which other programs do not disturb.
    """

    def __init__(self, reference: Candidate, precision: Precision, *, wall_clock: bool = False):
        self.precision = precision
        self.wall_clock = wall_clock
        workload = reference.load()
        self.expected = unit(workload.output())
        self.reference_seconds = self._seconds(workload)
        self.best = Choice(reference.config, self.reference_seconds, 1.0, 1.0)
        self.winner = reference

    def consider(self, candidate: Candidate) -> bool:
        """Choose a candidate if it is within the bound and the fastest so far.

        Returns:
            Whether it is within the bound.
        """
        workload = candidate.load()
        cosine = min_cosine(workload.output(), self.expected)
        if not within_bound(cosine, self.precision):
            return False
        seconds = self._seconds(workload)
        if seconds < min(self.best.seconds, self.reference_seconds / MIN_SPEEDUP):
            self.best = Choice(candidate.config, seconds, cosine, self.reference_seconds / seconds)
            self.winner = candidate
        return True

    def _seconds(self, workload: Workload) -> float:
        """Time a workload that ran before."""
        clock = time.perf_counter if self.wall_clock else time.process_time
        fastest = []
        for call in workload.timed or (workload.output,):
            times, began = [], time.monotonic()
            for _ in range(ROUNDS):
                start = clock()
                call()
                times.append(clock() - start)
                if time.monotonic() - began > PATIENCE:
                    break
            fastest.append(max(min(times), 1e-9))
        return float(np.exp(np.mean(np.log(fastest))))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (…, D) to unit length."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def min_cosine(vectors: np.ndarray, expected: np.ndarray) -> float:
    """Return the minimum cosine between vectors (…, D) and unit vectors (…, D); -1 if anything is not finite."""
    if not np.isfinite(vectors).all():
        return -1.0
    cosine = float(np.sum(unit(vectors) * expected, axis=-1).min())
    return cosine if np.isfinite(cosine) else -1.0


def remembered(file: Path) -> Choice | None:
    """Return the choice that `remember` saved in a file; None if there is none or the file is damaged."""
    with suppress(OSError, ValueError, TypeError):
        return Choice(**json.loads(file.read_text("utf-8")))
    return None


def remember(tuner: Autotuner, file: Path) -> Choice:
    """Save a tuner's choice and the files that it needs, and return it.

    The path must depend on everything that decides the choice: weights, precision, hardware, versions. If the file
    can't be written, as on a full disk, the choice is only measured again next time.
    """
    if tuner.winner.save is not None:
        tuner.winner.save()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(asdict(tuner.best), indent=1))
    return tuner.best
