"""Figures with their uncertainty: how far each might have come out otherwise on other pictures of the same kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
AT_ONCE = 2_000_000  # counts that are held in memory together

# From counts (R, n), how often each of n units is there in each of R samples, to the figures of each sample (R,).
Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Figure:
    """A figure, and the interval that holds 95 of 100 resampled ones."""

    metric: str
    value: float
    low: float
    high: float


def figures(units: int, measure: Measure, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Figure]:
    """What ``measure`` says of all units, each counted once, with percentile intervals of the bootstrap.

    A unit is what was drawn on its own: a picture, with all that was said or asked about it.

    Args:
        units: how many there are, n.
        measure: the figures of samples that are given as counts (R, n); NaN where a sample says nothing.
        resamples: samples of n units drawn with replacement.
        seed: of the drawing.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, section 13.3.
    """
    whole = {name: float(value[0]) for name, value in measure(np.ones((1, units))).items()}
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in whole}
    step = max(1, AT_ONCE // units)
    for begin in range(0, resamples, step):
        counts = generator.multinomial(units, np.full(units, 1 / units), size=min(step, resamples - begin))
        for name, values in measure(counts.astype(np.float64)).items():
            drawn[name].append(values)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    result = []
    for name, value in whole.items():
        low, high = np.nanquantile(np.concatenate(drawn[name]), tails)
        result.append(Figure(name, value, float(low), float(high)))
    return result


def means(names: tuple[str, ...], values: np.ndarray) -> Measure:
    """The measure of plain means: ``values`` (n, S) with a name for each column."""

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        mean = counts @ values / counts.sum(1, keepdims=True)
        return {name: mean[:, column] for column, name in enumerate(names)}

    return measure
