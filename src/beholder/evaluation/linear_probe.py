"""A linear probe: logistic regression on the features of a frozen image tower.

Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (arXiv:2103.00020),
appendix A.3: logistic regression on the features before the projection, L-BFGS with at most 1,000 iterations, and
an L2 strength chosen on held-out images, in eighths of a decade from 1e-6 to 1e6.
"""

import warnings
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra

WEAKEST, STRONGEST, FIRST_STEP, LAST_STEP = -6.0, 6.0, 2.0, 0.125  # exponents of ten
HELD_OUT = 0.2


def holdout_mask(truth: np.ndarray, share: float = HELD_OUT, seed: int = 0) -> np.ndarray:
    """Return a mask (n,) of held-out images: a random ``share`` of each class, at least one and never all of it.

    No image is held out of a class of one.
    """
    generator = np.random.default_rng(seed)
    out = np.zeros(len(truth), bool)
    for label in np.unique(truth):
        members = generator.permutation(np.flatnonzero(truth == label))
        if len(members) > 1:
            out[members[: max(1, round(share * len(members)))]] = True
    return out


def fit_probe(features: np.ndarray, truth: np.ndarray, strength: float) -> Any:
    """Fit logistic regression to features (n, D), with ``strength`` times the squared L2 norm added to the summed loss.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra("a linear probe", "evaluate") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 iterations are the protocol
        return LogisticRegression(C=1 / strength, max_iter=1000).fit(features, truth)


def select_l2_strength(features: np.ndarray, truth: np.ndarray, seed: int = 0) -> float:
    """Return the L2 strength with the best accuracy on held-out images; of equals, the strongest.

    Seven strengths, then finer ones around the best, halving the step down to an eighth of a decade.

    Raises:
        InvalidSetting: no class has two images, so none can be held out.
    """
    out = holdout_mask(truth, seed=seed)
    if not out.any():
        raise InvalidSetting(
            "a linear probe needs classes of at least two pictures to choose its regularization strength"
        )
    accuracy: dict[float, float] = {}

    def measure(exponent: float) -> None:
        if WEAKEST <= exponent <= STRONGEST and exponent not in accuracy:
            probe = fit_probe(features[~out], truth[~out], 10**exponent)
            accuracy[exponent] = float((probe.predict(features[out]) == truth[out]).mean())

    def best() -> float:
        return max(accuracy, key=lambda exponent: (accuracy[exponent], exponent))

    for exponent in np.arange(WEAKEST, STRONGEST + 1, FIRST_STEP):
        measure(float(exponent))
    step = FIRST_STEP
    while step > LAST_STEP:
        step /= 2
        peak = best()
        measure(peak - step)
        measure(peak + step)
    return float(10 ** best())
