"""Sample images and sentences to verify and time a network with."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from beholder.pictures.naflex import NaFlexPreprocessing
from beholder.pictures.preprocess import AnyPreprocessing, preprocess

if TYPE_CHECKING:
    from beholder.text.tokenizer import Tokenizer, Tokens

SENTENCES = (
    "a",
    "a photo of a dog",
    "two children run along the beach at sunset while a man with a hat watches",
    "a red bicycle leans against the wall of an old house",
    "12 eggs, 3.5 % fat; ready in half an hour",
    "nobody is there",
    "a plate of rice with vegetables and a glass of water on a wooden table next to the open window",
    "the harbour at night",
)


ASPECT_RATIOS = (1.0, 4 / 3, 3 / 4, 3.0, 1 / 3)  # width to height, of pictures that keep theirs


def sample_pixels(preprocessing: AnyPreprocessing, count: int = 8) -> np.ndarray:
    """Generate images and preprocess them: (count, 3, H, W), or marked patches (count, N, 3 P² + 2).

    They have the 1/f amplitude spectrum of photographs (Field, *Relations between the statistics of natural images and
    the response properties of cortical cells*, 1987), and edges: a bright and a dark disc each.
    """
    from PIL import Image

    random = np.random.default_rng(0)
    images = []
    for number in range(count):
        height, width = _sample_size(preprocessing, number)
        rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
        amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width))
        y, x = np.mgrid[:height, :width]
        phases = np.exp(2j * np.pi * random.random((3, *amplitude.shape)))
        noise = np.fft.irfft2(amplitude * phases, s=(height, width))
        picture = 128 + 45 * (noise - noise.mean()) / max(float(noise.std()), 1e-6)
        for level in (225, 30):
            centre_y, centre_x, radius = random.random(3) * (height, width, min(height, width) / 3)
            picture[:, np.hypot(y - centre_y, x - centre_x) < radius] = level * random.uniform(0.7, 1.1, (3, 1))
        values = picture.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        images.append(preprocess(Image.fromarray(values), preprocessing))
    return np.stack(images)


def _sample_size(preprocessing: AnyPreprocessing, number: int) -> tuple[int, int]:
    """Return (height, width) of a sample image: the network's, or a shape of its own each."""
    if not isinstance(preprocessing, NaFlexPreprocessing):
        return preprocessing.height, preprocessing.width
    side, ratio = preprocessing.shorter_side, ASPECT_RATIOS[number % len(ASPECT_RATIOS)] ** 0.5
    return max(1, round(side / ratio)), max(1, round(side * ratio))


def sample_tokens(tokenizer: Tokenizer, count: int = len(SENTENCES)) -> Tokens:
    """Tokenize the first ``count`` sample sentences; there are eight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a truncated sentence serves as well
        return tokenizer(SENTENCES[:count])
