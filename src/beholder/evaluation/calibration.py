"""Fitting `match`, and measuring how honest it is."""

import numpy as np

from beholder.errors import MissingExtra
from beholder.weights.calibration import Calibration


def fit_calibration(
    images: np.ndarray, texts: np.ndarray, fits: np.ndarray, background: np.ndarray, known: np.ndarray | None = None
) -> Calibration:
    """Logistic regression on held-back pairs, fitting and unfitting ones weighing the same in all.

    Args:
        images: (n, E), unit length.
        texts: (m, E), unit length.
        fits: (n, m) bool: does sentence m fit picture n.
        background: (K, E), unit length: unrelated sentences.
        known: (n, m) bool: which pairs to fit on; all by default.

    Raises:
        MissingExtra: scikit-learn is not installed.

    Source: Platt, *Probabilistic Outputs for Support Vector Machines*, with class weights in place of a prior.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra("fitting a calibration", "train") from error
    blank = Calibration(background.astype(np.float32), np.zeros(3))
    chosen = np.ones(fits.size, bool) if known is None else known.reshape(-1)
    features = blank.features(images, images @ texts.T).reshape(-1, 3)[chosen]
    curve = LogisticRegression(class_weight="balanced", fit_intercept=False, C=1e4, max_iter=1000)
    curve.fit(features, fits.reshape(-1)[chosen])
    return Calibration(blank.background, curve.coef_[0].astype(np.float64))


def calibration_error(match: np.ndarray, fits: np.ndarray, bins: int = 10) -> float:
    """The expected calibration error: how far, on average, the stated probability is from what happens.

    Args:
        match: probabilities of any shape.
        fits: bool of the same shape. Both kinds weigh the same in all, as in the fit.
        bins: intervals of equal width.

    Source: Guo et al., *On Calibration of Modern Neural Networks*, equation 3.
    """
    match, fits = match.reshape(-1), fits.reshape(-1)
    weight = np.where(fits, 0.5 / max(fits.sum(), 1), 0.5 / max((~fits).sum(), 1))
    index = np.minimum((match * bins).astype(int), bins - 1)
    error = 0.0
    for bin_ in range(bins):
        inside = index == bin_
        if mass := weight[inside].sum():
            stated = (weight[inside] * match[inside]).sum() / mass
            happened = (weight[inside] * fits[inside]).sum() / mass
            error += mass * abs(stated - happened)
    return float(error)
