"""Pictures as they come, read and brought to a network's pixels ahead of it; one that can't be used keeps its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beholder.errors import PictureError
from beholder.pictures.read import ImageSource, Limits, display_name, read_picture
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.runtime.pipeline import batches, map_ahead


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image that is already preprocessed (`preprocess_image`): pixels (3, H, W), used as they are."""

    pixels: np.ndarray


Picture = ImageSource | PreprocessedImage


class PreprocessedBatch(NamedTuple):
    """For each picture its place in the call, its name and its error; the pixels (n, 3, H, W) of those without one."""

    pictures: list[tuple[int, str, PictureError | None]]
    pixels: np.ndarray | None


def preprocess_batches(
    images: Iterable[Picture],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    exact: bool = False,
    allow_urls: bool = False,
    limits: Limits | None = None,
) -> Iterator[PreprocessedBatch]:
    """Batches in order, decoded ahead by threads; large JPEGs at reduced scale unless ``exact``."""

    def one(numbered: tuple[int, Picture]) -> tuple[int, str, np.ndarray | PictureError]:
        index, source = numbered
        name = display_name(source, index)
        try:
            made = preprocess_image(source, preprocessing, name=name, exact=exact, allow_urls=allow_urls, limits=limits)
            return index, name, made.pixels
        except PictureError as error:
            return index, name, error

    for batch in batches(map_ahead(one, enumerate(images), ahead=2 * batch_size), batch_size):
        pixels = [made for _, _, made in batch if isinstance(made, np.ndarray)]
        yield PreprocessedBatch(
            [(index, name, made if isinstance(made, PictureError) else None) for index, name, made in batch],
            np.stack(pixels) if pixels else None,
        )


def preprocess_image(
    source: Picture,
    preprocessing: Preprocessing,
    *,
    name: str,
    exact: bool = False,
    allow_urls: bool = False,
    limits: Limits | None = None,
) -> PreprocessedImage:
    """Reads one picture and brings it to a network's pixels.

    Raises:
        PictureError: it can't be used.
    """
    if isinstance(source, PreprocessedImage):
        return source
    reduce_to = None if exact else preprocessing.shorter_side
    picture = read_picture(source, name=name, limits=limits or Limits(), allow_urls=allow_urls, reduce_to=reduce_to)
    return PreprocessedImage(to_pixels(picture, preprocessing, name=name))


def image_list(images: Iterable[Picture] | Picture) -> Iterable[Picture]:
    """A single picture as a list of one; anything else as it is."""
    from PIL.Image import Image

    if isinstance(images, str | Path | bytes | Image | PreprocessedImage) or (
        isinstance(images, np.ndarray) and images.ndim <= 3
    ):
        return [images]
    return images
