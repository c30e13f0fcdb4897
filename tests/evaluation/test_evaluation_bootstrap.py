import numpy as np
import pytest
from scipy.stats import bootstrap

from beholder.evaluation.bootstrap import MetricFunction, bootstrap_metrics


def mean_metrics(names: tuple[str, ...], values: np.ndarray) -> MetricFunction:
    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        mean = counts @ values / counts.sum(1, keepdims=True)
        return {name: mean[:, column] for column, name in enumerate(names)}

    return measure


def test_the_intervals_equal_those_of_scipy() -> None:
    values = np.random.default_rng(1).gamma(2, size=(300, 2))
    ours = bootstrap_metrics(300, mean_metrics(("first", "second"), values), resamples=4000)
    for column, figure in enumerate(ours):
        theirs = bootstrap((values[:, column],), np.mean, n_resamples=4000, method="percentile", rng=2)
        assert figure.value == pytest.approx(values[:, column].mean(), abs=1e-12)
        interval = theirs.confidence_interval
        np.testing.assert_allclose((figure.low, figure.high), (interval.low, interval.high), atol=0.02)


def test_the_interval_has_approximately_its_nominal_coverage() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        (figure,) = bootstrap_metrics(
            120, mean_metrics(("share",), (generator.random((120, 1)) < 0.7).astype(float)), resamples=400, seed=seed
        )
        held += figure.low <= 0.7 <= figure.high
    assert 0.90 <= held / 200 <= 0.99


def test_the_interval_depends_on_the_seed_and_not_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random((50, 1))
    whole = bootstrap_metrics(50, mean_metrics(("mean",), values), resamples=100)
    monkeypatch.setattr("beholder.evaluation.bootstrap.MAX_COUNTS", 350)
    assert bootstrap_metrics(50, mean_metrics(("mean",), values), resamples=100) == whole


def test_undefined_resamples_are_excluded() -> None:
    right, counted = np.array([1.0, 0, 0, 0]), np.array([1.0, 0, 0, 0])

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {"rare": counts @ right / (counts @ counted)}

    (figure,) = bootstrap_metrics(4, measure)
    assert (figure.value, figure.low, figure.high) == (1, 1, 1)
