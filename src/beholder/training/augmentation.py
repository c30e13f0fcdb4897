"""Random augmentation of images, so that a network learns what they show and not how they look.

Each function takes an RGB image and a generator, and returns an image. The result depends on the generator alone.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from beholder.errors import InvalidSetting


@dataclass(frozen=True)
class Augmentation:
    """How images are augmented; by default not at all.

    Attributes:
        smallest_crop: minimum share of an image's area that a random crop keeps; 1 disables cropping.
        flip: probability of a horizontal flip. Captions that mention left and right become wrong.
        color_jitter: strength of the color jitter: brightness, contrast and saturation are each scaled by a factor
            of 1 minus this to 1 plus this.
    """

    smallest_crop: float = 1.0
    flip: float = 0.0
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.smallest_crop <= 1:
            raise InvalidSetting(f"smallest_crop {self.smallest_crop} must be a share above 0, at most 1")
        if not (0 <= self.flip <= 1 and 0 <= self.color_jitter < 1):
            raise InvalidSetting(f"flip {self.flip} and color_jitter {self.color_jitter} must be between 0 and 1")


def augment(picture: Image.Image, settings: Augmentation, generator: np.random.Generator) -> Image.Image:
    """Augment an image: crop, flip, color jitter, in this order."""
    if settings.smallest_crop < 1:
        picture = random_crop(picture, generator, settings.smallest_crop)
    if settings.flip:
        picture = random_flip(picture, generator, settings.flip)
    if settings.color_jitter:
        picture = random_color_jitter(picture, generator, settings.color_jitter)
    return picture


def random_crop(picture: Image.Image, generator: np.random.Generator, smallest: float = 0.25) -> Image.Image:
    """Random resized crop without the resizing: a share of ``smallest`` to 1 of the area, aspect ratio 3:4 to 4:3.

    Source: Szegedy et al., *Going Deeper with Convolutions*, section 6.
    """
    for _ in range(10):
        area = picture.width * picture.height * generator.uniform(smallest, 1)
        shape = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = int((area * shape) ** 0.5), int((area / shape) ** 0.5)
        if 0 < width <= picture.width and 0 < height <= picture.height:
            left = int(generator.integers(picture.width - width + 1))
            top = int(generator.integers(picture.height - height + 1))
            return picture.crop((left, top, left + width, top + height))
    return picture


def views_of(picture: Image.Image, count: int, generator: np.random.Generator) -> list[Image.Image]:
    """Return ``count`` views: the image, its mirror image, and random crops, every other one mirrored."""
    views = [picture, ImageOps.mirror(picture)]
    for number in range(count - 2):
        crop = random_crop(picture, generator)
        views.append(ImageOps.mirror(crop) if number % 2 else crop)
    return views[:count]


def random_flip(picture: Image.Image, generator: np.random.Generator, share: float = 0.5) -> Image.Image:
    """Flip an image horizontally with probability ``share``."""
    return ImageOps.mirror(picture) if generator.random() < share else picture


def random_color_jitter(picture: Image.Image, generator: np.random.Generator, most: float) -> Image.Image:
    """Scale brightness, contrast and saturation, in this order, by random factors of 1 - ``most`` to 1 + ``most``.

    Source: Howard, *Some Improvements on Deep Convolutional Neural Network Based Image Classification*, section 2.
    """
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(1 + most * generator.uniform(-1, 1))
    return picture
