"""Sample images and sentences to verify and time a network with."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from beholder.pictures.transform import Preprocessing, to_pixels

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


def sample_pixels(preprocessing: Preprocessing, count: int = 8) -> np.ndarray:
    """Generate images and preprocess them: (count, 3, H, W).

    They have the 1/f amplitude spectrum of photographs (Field, *Relations between the statistics of natural images and
    the response properties of cortical cells*, 1987), and edges: a bright and a dark disc each.
    """
    from PIL import Image

    random = np.random.default_rng(0)
    height, width = preprocessing.height, preprocessing.width
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    y, x = np.mgrid[:height, :width]
    images = []
    for _ in range(count):
        phases = np.exp(2j * np.pi * random.random((3, *amplitude.shape)))
        noise = np.fft.irfft2(amplitude * phases, s=(height, width))
        picture = 128 + 45 * (noise - noise.mean()) / max(float(noise.std()), 1e-6)
        for level in (225, 30):
            centre_y, centre_x, radius = random.random(3) * (height, width, min(height, width) / 3)
            picture[:, np.hypot(y - centre_y, x - centre_x) < radius] = level * random.uniform(0.7, 1.1, (3, 1))
        values = picture.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        images.append(to_pixels(Image.fromarray(values), preprocessing))
    return np.stack(images)


def sample_tokens(tokenizer: Tokenizer, count: int = len(SENTENCES)) -> Tokens:
    """Tokenize the first ``count`` sample sentences; there are eight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a truncated sentence serves as well
        return tokenizer(SENTENCES[:count])
