"""Pictures as callers pass them, preprocessed ahead of the network; one that can't be used keeps its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import numpy as np

from beholder.errors import InvalidSetting, PictureError
from beholder.pictures.preprocess import AnyPreprocessing, preprocess
from beholder.pictures.read import ImageSource, Limits, display_name, read_picture
from beholder.pictures.video import VideoFrame
from beholder.runtime.pipeline import batches, map_ahead
from beholder.tasks.inputs import checked_batch_size

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image that is already preprocessed (`preprocess_image`): pixels (3, H, W), or patches, used as they are."""

    pixels: np.ndarray


Picture = ImageSource | PreprocessedImage
Pictures = Picture | Sequence[Picture]  # of one question or conversation


@dataclass(frozen=True)
class FailedPicture:
    """A picture of a stream that can't be used: its position in the call, its name, and the error."""

    index: int
    name: str
    error: PictureError
    embedding: ClassVar[None] = None
    caption: ClassVar[None] = None


class PreprocessedBatch(NamedTuple):
    """Position, name and error of each picture, and the preprocessed arrays (n, …) of those without an error."""

    pictures: list[tuple[int, str, PictureError | None]]
    pixels: np.ndarray | None


def preprocess_batches(
    images: Iterable[Picture],
    preprocessing: AnyPreprocessing,
    *,
    batch_size: int,
    exact: bool = False,
    allow_urls: bool = False,
    limits: Limits | None = None,
) -> Iterator[PreprocessedBatch]:
    """Return batches in order, decoded ahead by threads; large JPEGs at reduced scale unless ``exact``.

    Raises:
        InvalidSetting: ``images`` can't be iterated, or ``batch_size`` is not positive.
    """

    def read(source: Picture, name: str) -> np.ndarray:
        return preprocess_image(
            source, preprocessing, name=name, exact=exact, allow_urls=allow_urls, limits=limits
        ).pixels

    def stream() -> Iterator[PreprocessedBatch]:
        for batch in read_batches(images, read, batch_size):
            pixels = [result for _, _, result in batch if isinstance(result, np.ndarray)]
            yield PreprocessedBatch(
                [(index, name, result if isinstance(result, PictureError) else None) for index, name, result in batch],
                np.stack(pixels) if pixels else None,
            )

    checked_images(images, batch_size, limits)
    return stream()


def decode_picture(source: Picture, name: str, allow_urls: bool = False, limits: Limits | None = None) -> Image:
    """Read one picture for a model that takes pictures as they are.

    Raises:
        PictureError: it can't be used.
        InvalidSetting: it was preprocessed for another model.
    """
    if isinstance(source, PreprocessedImage):
        raise InvalidSetting("this model takes pictures as they are, and not preprocessed ones")
    return read_picture(source, name=name, limits=limits or Limits(), allow_urls=allow_urls)


def checked_images(images: Iterable[Picture], batch_size: int, limits: Limits | None) -> None:
    """Check the arguments that all streams of pictures share.

    Raises:
        InvalidSetting: ``images`` can't be iterated, ``batch_size`` is not positive, or ``limits`` are none.
    """
    if not isinstance(images, Iterable):
        raise InvalidSetting(f"images must be pictures or a list of them, not {type(images).__name__}")
    checked_batch_size(batch_size)
    if limits is not None and not isinstance(limits, Limits):
        raise InvalidSetting(f"limits must be Limits, not {type(limits).__name__}")


def read_batches(
    images: Iterable[Picture], read: Callable[[Picture, str], Result], batch_size: int
) -> Iterator[list[tuple[int, str, Result | PictureError]]]:
    """Yield position, name and result or error of each picture, in batches, read ahead by threads."""

    def attempt(numbered: tuple[int, Picture]) -> tuple[int, str, Result | PictureError]:
        index, source = numbered
        name = display_name(source, index)
        try:
            return index, name, read(source, name)
        except PictureError as error:
            return index, name, error

    return batches(map_ahead(attempt, enumerate(images), ahead=2 * batch_size), batch_size)


def preprocess_image(
    source: Picture,
    preprocessing: AnyPreprocessing,
    *,
    name: str,
    exact: bool = False,
    allow_urls: bool = False,
    limits: Limits | None = None,
) -> PreprocessedImage:
    """Read one picture and preprocess it for a network.

    Raises:
        PictureError: it can't be used.
    """
    if isinstance(source, PreprocessedImage):
        return source
    reduce_to = None if exact else preprocessing.shorter_side
    picture = read_picture(source, name=name, limits=limits or Limits(), allow_urls=allow_urls, reduce_to=reduce_to)
    return PreprocessedImage(preprocess(picture, preprocessing, name=name))


def is_one_image(images: Iterable[Picture] | Picture) -> bool:
    """Return whether this is a single picture: a path, bytes, a PIL image, or an array of up to three dimensions."""
    from PIL.Image import Image

    if isinstance(images, np.ndarray):
        return images.ndim <= 3
    return isinstance(images, str | Path | bytes | Image | PreprocessedImage | VideoFrame)


def image_list(images: Iterable[Picture] | Picture) -> Iterable[Picture]:
    """Return a single picture as a list of one, and anything else as it is."""
    return [images] if is_one_image(images) else images  # type: ignore[list-item, return-value]


def picture_list(images: Pictures) -> list[Picture]:
    """Return the pictures of one question or conversation."""
    found = image_list(images)
    return list(found) if isinstance(found, Iterable) else [found]


def only_picture(images: Pictures, name: str) -> Picture:
    """Return the one picture of a question or conversation, for a model that reads no more.

    Raises:
        InvalidSetting: there are several, or none.
    """
    found = picture_list(images)
    if len(found) != 1:
        raise InvalidSetting(f"{name}: this model reads one picture at a time, not {len(found)}")
    return found[0]
