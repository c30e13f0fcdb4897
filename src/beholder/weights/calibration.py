"""From a cosine to ``match``: how sure it is, from 0 to 1, that a sentence fits a picture.

A cosine of 0.33 says nothing to a person, and its scale shifts from model to model and from picture to picture. So a
model carries a *background*, the embeddings of sentences unrelated to the picture at hand. A picture's cosines with
the background have a mean and a standard deviation; a sentence's distance from that mean, in standard deviations, is
turned into a probability by a logistic curve (Platt scaling). `beholder.evaluation.calibration` fits the curve.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = "calibration.safetensors"
MULTILINGUAL_FILE = "multilingual-calibration.safetensors"  # of a second text tower, in the same folder


@dataclass(frozen=True)
class Calibration:
    """A fitted curve and its background.

    Args:
        background: (K, E) float32, unit length: embeddings of K unrelated sentences.
        weights: (3,) float64: the curve's factors for the height above the background, the cosine, and the constant.
    """

    background: np.ndarray
    weights: np.ndarray

    def features(self, images: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Return the curve's inputs (n, m, 3): the height above the background, the cosine, and 1.

        Args:
            images: (n, E), unit length.
            cosines: (n, m) between the images and m sentences.
        """
        against = images @ self.background.T  # (n, K)
        mean, deviation = against.mean(axis=1, keepdims=True), against.std(axis=1, keepdims=True)
        height = (cosines - mean) / np.maximum(deviation, 1e-6)
        return np.stack([height, cosines, np.ones_like(cosines)], axis=-1)

    def match(self, images: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Return the probabilities (n, m) that each sentence fits each picture, at even prior odds."""
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-(self.features(images, cosines) @ self.weights)))

    def save(self, folder: Path, file: str = FILE) -> None:
        """Write one file into a model's folder."""
        from safetensors.numpy import save_file

        tensors: dict[str, np.ndarray] = {"background": self.background, "weights": self.weights}
        save_file(tensors, folder / file)

    @classmethod
    def load(cls, folder: Path, file: str = FILE) -> "Calibration | None":
        """Load the calibration of a model's folder; None if it has none."""
        from safetensors.numpy import load_file

        if not (folder / file).exists():
            return None
        tensors = load_file(folder / file)
        return cls(tensors["background"], tensors["weights"])
