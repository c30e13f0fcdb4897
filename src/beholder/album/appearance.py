"""What is kept of a picture's pixels to compare it with near-duplicates: small images and its sharpness by region."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from beholder.album.image_registration import SIDE
from beholder.album.picture import Picture
from beholder.errors import PictureError
from beholder.pictures.read import read_picture

SHARPNESS_SIDE = 256  # pixels of the longer side at which sharpness is measured
GRID = 16  # regions a side
EDGE_FLOOR = 4.0  # gray levels squared, below which a region counts as without texture


@dataclass(frozen=True)
class Appearance:
    """The appearance of one picture.

    Attributes:
        gray: small image of the lightness, its longer side `image_registration.SIDE`.
        sharpness: binary logarithm of the energy of edges (GRID, GRID) float32.
        colors: small color image (GRID, GRID, 3) uint8.
    """

    gray: Image.Image
    sharpness: np.ndarray
    colors: np.ndarray

    def to_bytes(self) -> bytes:
        """Return the appearance as the album stores it."""
        size = bytes(self.gray.size)
        return size + self.gray.tobytes() + self.sharpness.astype(np.float16).tobytes() + self.colors.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Appearance:
        """Return the appearance that `to_bytes` stored."""
        width, height = data[0], data[1]
        end, cells = 2 + width * height, GRID * GRID
        gray = Image.frombytes("L", (width, height), data[2:end])
        sharpness = np.frombuffer(data, np.float16, cells, end).reshape(GRID, GRID).astype(np.float32)
        colors = np.frombuffer(data, np.uint8, 3 * cells, end + 2 * cells).reshape(GRID, GRID, 3)
        return cls(gray, sharpness, colors)


def appearance_of(picture: Picture) -> Appearance | None:
    """Read a picture; None if it can't be read any more."""
    try:
        whole = read_picture(picture.source, reduce_to=SHARPNESS_SIDE)
    except PictureError:
        return None
    gray = _resized(whole.convert("L"), SHARPNESS_SIDE, Image.Resampling.BICUBIC)
    colors = np.asarray(whole.resize((GRID, GRID), Image.Resampling.BOX))
    return Appearance(_resized(_lightness(whole), SIDE, Image.Resampling.BOX), _sharpness(gray), colors)


def pixel_hash(picture: Picture) -> bytes | None:
    """Return the hash of a picture's pixels, upright; None if it can't be read any more."""
    try:
        image = read_picture(picture.source)
    except PictureError:
        return None
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


def _lightness(image: Image.Image) -> Image.Image:
    """Return the mean of the greatest and the least channel, which stays the same when hues are rotated."""
    pixels = np.asarray(image)
    return Image.fromarray((pixels.max(axis=2) // 2 + pixels.min(axis=2) // 2).astype(np.uint8))


def _resized(image: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    scale = side / max(image.size)
    return image.resize((max(round(image.width * scale), 3), max(round(image.height * scale), 3)), resample)


def _sharpness(gray: Image.Image) -> np.ndarray:
    pixels = np.asarray(gray, np.float32)
    pixels = np.pad(pixels, 1, mode="edge")
    edges = 4 * pixels[1:-1, 1:-1] - pixels[:-2, 1:-1] - pixels[2:, 1:-1] - pixels[1:-1, :-2] - pixels[1:-1, 2:]
    energy = Image.fromarray(edges**2).resize((GRID, GRID), Image.Resampling.BOX)
    return np.log2(np.asarray(energy) + EDGE_FLOOR)
