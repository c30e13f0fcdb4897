"""Fitting the calibration used by `DualEncoder.match`, and measuring its calibration error."""

import numpy as np

from beholder.errors import MissingExtra
from beholder.weights.calibration import Calibration


def fit_calibration(
    images: np.ndarray, texts: np.ndarray, fits: np.ndarray, background: np.ndarray, known: np.ndarray | None = None
) -> Calibration:
    """Fit a calibration by logistic regression on held-out pairs; matching and other pairs get equal total weight.

    Args:
        images: (n, E), unit length.
        texts: (m, E), unit length.
        fits: (n, m) bool, whether text m matches image n.
        background: (K, E), unit length, unrelated texts.
        known: (n, m) bool, the pairs to fit on; all by default.

    Raises:
        MissingExtra: scikit-learn is not installed.

    Source: Platt, *Probabilistic Outputs for Support Vector Machines*, with class weights instead of a prior.
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
    """Return the expected calibration error: the mean gap between predicted probability and observed frequency.

    Args:
        match: probabilities of any shape.
        fits: bool of the same shape. Matching and other pairs get equal total weight, as in the fit.
        bins: number of bins of equal width.

    Source: Guo et al., *On Calibration of Modern Neural Networks*, equation 3.
    """
    match, fits = match.reshape(-1), fits.reshape(-1)
    weight = np.where(fits, 0.5 / max(fits.sum(), 1), 0.5 / max((~fits).sum(), 1))
    index = np.minimum((match * bins).astype(int), bins - 1)
    error = 0.0
    for bin_ in range(bins):
        inside = index == bin_
        if mass := weight[inside].sum():
            predicted = (weight[inside] * match[inside]).sum() / mass
            observed = (weight[inside] * fits[inside]).sum() / mass
            error += mass * abs(predicted - observed)
    return float(error)
