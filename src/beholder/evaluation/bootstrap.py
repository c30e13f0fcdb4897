"""Metrics with bootstrap confidence intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
MAX_COUNTS = 2_000_000  # counts in memory at a time

# From counts (R, n), how often each of n units occurs in each of R samples, to the metrics (R,) of the samples.
MetricFunction = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Metric:
    """A metric with its 95 % confidence interval."""

    metric: str
    value: float
    low: float
    high: float


def bootstrap_metrics(
    units: int, measure: MetricFunction, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Metric]:
    """Return metrics with percentile bootstrap intervals.

    A unit is what was sampled independently: a picture, with all of its captions or questions.

    Args:
        units: number of units, n.
        measure: computes the metrics of samples given as counts (R, n); NaN if a sample has no value.
        resamples: number of samples of n units, drawn with replacement.
        seed: random seed.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, section 13.3.
    """
    values = {name: float(value[0]) for name, value in measure(np.ones((1, units))).items()}
    generator = np.random.default_rng(seed)
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in values}
    step = max(1, MAX_COUNTS // units)
    for start in range(0, resamples, step):
        counts = generator.multinomial(units, np.full(units, 1 / units), size=min(step, resamples - start))
        for name, sample in measure(counts.astype(np.float64)).items():
            resampled[name].append(sample)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    result = []
    for name, value in values.items():
        low, high = np.nanquantile(np.concatenate(resampled[name]), tails)
        result.append(Metric(name, value, float(low), float(high)))
    return result
