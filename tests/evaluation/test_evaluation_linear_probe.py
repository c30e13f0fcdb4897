import numpy as np
import pytest

from beholder.errors import InvalidSetting
from beholder.evaluation.linear_probe import fit_probe, holdout_mask, select_l2_strength


def clouds(pictures: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sample three Gaussian classes in 20 dimensions."""
    generator = np.random.default_rng(seed)
    truth = np.arange(pictures) % 3
    middle = np.eye(3, 20)
    return middle[truth] + generator.normal(size=(pictures, 20)) * spread, truth


def test_one_fifth_of_each_class_is_held_out() -> None:
    truth = np.array([0] * 50 + [1] * 10 + [2] * 2 + [3])
    out = holdout_mask(truth)
    assert np.bincount(truth[out], minlength=4).tolist() == [10, 2, 1, 0]
    assert (holdout_mask(truth) == out).all() and (holdout_mask(truth, seed=1) != out).any()


def test_the_probe_minimizes_the_documented_objective() -> None:
    """The gradient of the sum of losses plus half the strength times the squared weights vanishes."""
    features, truth = clouds(90, 0.5)
    probe = fit_probe(features, truth, strength=2.0)
    off = probe.predict_proba(features) - np.eye(3)[truth]
    np.testing.assert_allclose(off.T @ features + 2.0 * probe.coef_, 0, atol=0.02)


def test_the_selected_strength_is_as_good_as_that_of_an_exhaustive_search() -> None:
    features, truth = clouds(150, 0.9)
    out = holdout_mask(truth)

    def accuracy(exponent: float) -> float:
        return float((fit_probe(features[~out], truth[~out], 10**exponent).predict(features[out]) == truth[out]).mean())

    chosen = np.log10(select_l2_strength(features, truth))
    every = [accuracy(exponent) for exponent in np.arange(-6, 6.01, 0.5)]
    assert accuracy(chosen) >= max(every) - 0.035  # one picture
    assert min(every) < max(every)
    assert chosen * 8 == pytest.approx(round(chosen * 8))


def test_classes_with_a_single_picture_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="at least two pictures"):
        select_l2_strength(np.eye(3), np.arange(3))
