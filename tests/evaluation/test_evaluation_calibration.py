import numpy as np
import pytest

from beholder.evaluation.calibration import calibration_error, fit_calibration
from beholder.weights.calibration import Calibration


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_calibrated_probabilities_have_zero_error() -> None:
    match = np.array([0.25] * 4 + [0.75] * 4)
    fits = np.array([True] + [False] * 3 + [True] * 3 + [False])
    assert calibration_error(match, fits) == pytest.approx(0)


@pytest.mark.parametrize(
    ("match", "fits", "expected"),
    [
        ([1.0, 1.0, 0.0, 0.0], [False, False, True, True], 1.0),
        ([0.9, 0.9, 0.9, 0.9], [True, True, False, False], 0.4),
        # three of four do not match, but both classes have equal weight: the frequency is one half
        ([0.5, 0.5, 0.5, 0.5], [True, False, False, False], 0.0),
        # 0.1: none matches (error 0.1, half of the weight); 0.9: all match (error 0.1)
        ([0.1, 0.1, 0.9, 0.9], [False, False, True, True], 0.1),
    ],
)
def test_the_calibration_error_equals_hand_computed_values(
    match: list[float], fits: list[bool], expected: float
) -> None:
    assert calibration_error(np.array(match), np.array(fits)) == pytest.approx(expected)


def test_the_calibration_error_does_not_depend_on_the_shape() -> None:
    random = np.random.default_rng(0)
    match, fits = random.random((6, 5)), random.random((6, 5)) < 0.3
    assert calibration_error(match, fits) == calibration_error(match.reshape(-1), fits.reshape(-1))


def test_the_features_are_the_background_z_score_the_cosine_and_one() -> None:
    calibration = Calibration(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.zeros(3))
    images = np.array([[0.6, 0.8]], np.float32)  # cosines 0.6 and 0.8: mean 0.7, standard deviation 0.1
    np.testing.assert_allclose(calibration.features(images, np.array([[0.9]])), [[[2.0, 0.9, 1.0]]], rtol=1e-5)


def test_extreme_scores_saturate_without_a_warning() -> None:
    calibration = Calibration(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([1e5, 0.0, 0.0]))
    match = calibration.match(np.array([[0.6, 0.8]], np.float32), np.array([[-1.0, 1.0]]))
    assert match.tolist() == [[0.0, 1.0]]


def test_a_fit_recovers_the_true_probabilities() -> None:
    random = np.random.default_rng(3)
    background = unit(random.normal(size=(40, 6))).astype(np.float32)
    images, texts = unit(random.normal(size=(150, 6))), unit(random.normal(size=(150, 6)))
    truth = Calibration(background, np.array([1.5, 0.5, 0.0]))
    probability = truth.match(images, images @ texts.T)
    fits = random.random(probability.shape) < probability  # about as many matching pairs as not, hence even prior odds
    pytest.importorskip("sklearn", reason="the fit is scikit-learn's")
    fitted = fit_calibration(images, texts, fits, background)
    stated = fitted.match(images, images @ texts.T)
    assert abs(stated - probability).mean() < 0.02
    assert calibration_error(stated, fits) < 0.02
    assert calibration_error(stated**4, fits) > 0.1


def test_a_saved_calibration_is_restored_bit_for_bit(tmp_path) -> None:
    written = Calibration(np.ones((2, 3), np.float32) / 3, np.array([0.1, 0.2, 0.3]))
    written.save(tmp_path)
    read = Calibration.load(tmp_path)
    assert read is not None
    assert (read.background.tobytes(), read.weights.tobytes()) == (
        written.background.tobytes(),
        written.weights.tobytes(),
    )
    assert Calibration.load(tmp_path / "elsewhere") is None
