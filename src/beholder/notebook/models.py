"""Models by name, each loaded once per notebook."""

from __future__ import annotations

from functools import cache

from beholder.tasks.dual_encoder import DualEncoder
from beholder.tasks.generate import ImageGenerator
from beholder.tasks.vision_language import VisionLanguageModel


def load_encoder(model: str | DualEncoder) -> DualEncoder:
    """Return the model, loaded if it is given by name."""
    return model if isinstance(model, DualEncoder) else _load_encoder(str(model))


def load_vision_language_model(model: str | VisionLanguageModel) -> VisionLanguageModel:
    """Return the model, loaded if it is given by name."""
    return model if isinstance(model, VisionLanguageModel) else _load_vision_language_model(str(model))


def load_image_generator(model: str | ImageGenerator) -> ImageGenerator:
    """Return the model, loaded if it is given by name."""
    return model if isinstance(model, ImageGenerator) else _load_image_generator(str(model))


@cache
def _load_encoder(name: str) -> DualEncoder:
    return DualEncoder.from_pretrained(name)


@cache
def _load_vision_language_model(name: str) -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained(name)


@cache
def _load_image_generator(name: str) -> ImageGenerator:
    return ImageGenerator.from_pretrained(name)
