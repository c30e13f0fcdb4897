"""A linear probe: how much a frozen image tower knows that a straight line can tell apart.

Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (arXiv:2103.00020),
appendix A.3: logistic regression on the features before the projection, L-BFGS with at most 1,000 iterations, the
strength of its L2 regularisation chosen on held-out pictures among eight steps a decade from 1e-6 to 1e6.
"""

import warnings
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra

WEAKEST, STRONGEST, FIRST_STEP, LAST_STEP = -6.0, 6.0, 2.0, 0.125  # exponents of ten
HELD_OUT = 0.2


def held_out(truth: np.ndarray, share: float = HELD_OUT, seed: int = 0) -> np.ndarray:
    """Which pictures (n,) to keep out: ``share`` of each class at random, at least one and never all of it.

    A class of one picture keeps it.
    """
    generator = np.random.default_rng(seed)
    out = np.zeros(len(truth), bool)
    for label in np.unique(truth):
        members = generator.permutation(np.flatnonzero(truth == label))
        if len(members) > 1:
            out[members[: max(1, round(share * len(members)))]] = True
    return out


def fit_probe(features: np.ndarray, truth: np.ndarray, strength: float) -> Any:
    """Logistic regression on features (n, D) with this L2 regularisation of the sum of losses.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra("a linear probe", "evaluate") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a thousand steps are the protocol
        return LogisticRegression(C=1 / strength, max_iter=1000).fit(features, truth)


def choose_strength(features: np.ndarray, truth: np.ndarray, seed: int = 0) -> float:
    """The regularisation that is best on held-out pictures; of equals the strongest.

    Seven strengths, then finer ones around the best, halving the step until it is an eighth of a decade.

    Raises:
        InvalidSetting: no class has two pictures, so none can be held out.
    """
    out = held_out(truth, seed=seed)
    if not out.any():
        raise InvalidSetting("a linear probe needs classes of at least two pictures to choose its regularisation")
    found: dict[float, float] = {}

    def judge(exponent: float) -> None:
        if WEAKEST <= exponent <= STRONGEST and exponent not in found:
            probe = fit_probe(features[~out], truth[~out], 10**exponent)
            found[exponent] = float((probe.predict(features[out]) == truth[out]).mean())

    def best() -> float:
        return max(found, key=lambda exponent: (found[exponent], exponent))

    for exponent in np.arange(WEAKEST, STRONGEST + 1, FIRST_STEP):
        judge(float(exponent))
    step = FIRST_STEP
    while step > LAST_STEP:
        step /= 2
        peak = best()
        judge(peak - step)
        judge(peak + step)
    return float(10 ** best())
