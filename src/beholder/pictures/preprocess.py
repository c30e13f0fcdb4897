"""Preprocessing of either kind: pixels of a fixed size, or patches of variable resolution."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from beholder.pictures.naflex import NaFlexPreprocessing, to_patches
from beholder.pictures.transform import Preprocessing, to_pixels

AnyPreprocessing = Preprocessing | NaFlexPreprocessing


def preprocess(picture: Image.Image, preprocessing: AnyPreprocessing, name: str = "picture") -> np.ndarray:
    """Preprocess a picture for a network.

    Args:
        picture: An image of mode RGB, as returned by ``read_picture``.
        preprocessing: The preprocessing of the network.
        name: The name of the picture in warnings.

    Returns:
        float32 array: pixels (3, H, W), or marked patches (N, 3 P² + 2).
    """
    if isinstance(preprocessing, NaFlexPreprocessing):
        return to_patches(picture, preprocessing)
    return to_pixels(picture, preprocessing, name)


def read_preprocessing(values: Mapping[str, Any]) -> AnyPreprocessing:
    """Return the preprocessing that a settings file describes.

    Raises:
        InvalidSetting: a value is out of range.
        TypeError: a setting is unknown or missing.
    """
    return NaFlexPreprocessing(**values) if "max_num_patches" in values else Preprocessing(**values)
