"""Whether one small gray image shows the same as another one, or a part of it, whatever its colors and contrast.

Both are brought to the same local contrast, so that fading, recoloring and watermarks hardly count. Then one is moved
over the other at every position and at widths down to `MIN_WIDTH` of it; the score is the highest normalized
cross-correlation. A coarse search over all widths comes first, a finer one around its result only if that is promising.

Source: Lewis, *Fast Normalized Cross-Correlation* (correlation by FFT, local energy by running sums).
Shapes: H, W of an image, K template widths.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 48  # longer side of the images
COARSE = 24  # longer side in the first search
MIN_WIDTH = 0.62  # width, and height, of the visible part relative to the whole
PROMISING = 0.35  # coarse score below which no finer search is made
NEARBY = 2  # pixels around the coarse width that the finer search tries


def registration_score(one: Image.Image, other: Image.Image) -> float:
    """Return how well two gray images, their longer side `SIDE`, show the same: about 0 for none, 1 for exactly.

    Either may be a part of the other.
    """
    return max(_score(one, other), _score(other, one))


def _score(whole: Image.Image, part: Image.Image) -> float:
    small_whole, small_part = _reduced(_Pixels(whole)), _reduced(_Pixels(part))
    coarse, width = _search(small_whole, small_part, _widths(small_whole))
    if coarse < PROMISING:
        return coarse
    center = round(width * whole.width / small_whole.image.width)
    least, most = _widths(_Pixels(whole))[0], whole.width
    widths = tuple(range(max(center - NEARBY, least), min(center + NEARBY, most) + 1))
    return _search(_Pixels(whole), _Pixels(part), widths)[0]


class _Pixels:
    """An image that can be a key of a cache, by its pixels."""

    def __init__(self, image: Image.Image):
        self.image = image
        self.key = (image.size, image.tobytes())

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pixels) and self.key == other.key


def _widths(whole: _Pixels) -> tuple[int, ...]:
    width = whole.image.width
    return tuple(range(max(int(np.ceil(MIN_WIDTH * width)), 3), width + 1))


@lru_cache(maxsize=4000)
def _reduced(pixels: _Pixels) -> _Pixels:
    image = pixels.image
    scale = COARSE / max(image.size)
    size = max(round(image.width * scale), 3), max(round(image.height * scale), 3)
    return _Pixels(image.resize(size, Image.Resampling.BOX))


@lru_cache(maxsize=2000)
def _spectrum(whole: _Pixels) -> tuple[np.ndarray, np.ndarray]:
    """Return the transform of an image of equal local contrast, and the running sums (H + 1, W + 1) of its energy."""
    pixels = equal_contrast(whole.image)
    energy = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1), np.float64)
    energy[1:, 1:] = (pixels**2).cumsum(0).cumsum(1)
    return np.fft.rfft2(pixels), energy


@lru_cache(maxsize=4000)
def _templates(
    part: _Pixels, shape: tuple[int, int], widths: tuple[int, ...]
) -> list[tuple[np.ndarray, int, int, float]]:
    """Return the transforms of an image at some widths in a frame (H, W), each with its size and energy."""
    image, made = part.image, []
    for width in widths:
        height = round(width * image.height / image.width)
        if not MIN_WIDTH * shape[0] <= height <= shape[0] + 1:
            continue
        height = min(height, shape[0])
        resample = Image.Resampling.BOX if width < image.width else Image.Resampling.BICUBIC
        template = np.zeros(shape, np.float32)
        template[:height, :width] = equal_contrast(image.resize((width, height), resample))
        made.append((np.fft.rfft2(template).conj(), width, height, float((template**2).sum())))
    return made


def _search(whole: _Pixels, part: _Pixels, widths: tuple[int, ...]) -> tuple[float, int]:
    """Return the highest correlation, and the width of the part at which it is reached."""
    shape = whole.image.height, whole.image.width
    transform, energy = _spectrum(whole)
    templates = _templates(part, shape, widths)
    if not templates:
        return 0.0, shape[1]
    products = np.fft.irfft2(np.stack([transform * template for template, *_ in templates]), shape)  # (K, H, W)
    best, at = 0.0, shape[1]
    for product, (_, width, height, own) in zip(products, templates, strict=True):
        inside = product[: shape[0] - height + 1, : shape[1] - width + 1]
        local = (
            energy[height:, width:] - energy[:-height, width:] - energy[height:, :-width] + energy[:-height, :-width]
        )
        score = float((inside / np.sqrt(np.maximum(local * own, 1e-6))).max())
        if score > best:
            best, at = score, width
    return best, at


def equal_contrast(image: Image.Image) -> np.ndarray:
    """Return pixels (H, W) float32 as differences from their surroundings, over the local size of such differences."""
    pixels = np.asarray(image, np.float32)
    radius = 3 if max(image.size) > COARSE else 2
    difference = pixels - _mean_around(pixels, radius)
    spread = np.sqrt(_mean_around(difference**2, radius))
    return difference / (spread + 0.3 * spread.mean() + 0.5)


def detail(image: Image.Image) -> float:
    """Return the mean difference of pixels from their surroundings, in gray levels."""
    pixels = np.asarray(image, np.float32)
    return float(np.abs(pixels - _mean_around(pixels, 3)).mean())


def _mean_around(pixels: np.ndarray, radius: int) -> np.ndarray:
    size = 2 * radius + 1
    sums = np.pad(pixels.astype(np.float64), radius, mode="edge").cumsum(0).cumsum(1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    boxes = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return np.maximum(boxes / size**2, 0) if pixels.min() >= 0 else boxes / size**2
