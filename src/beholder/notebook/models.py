"""Models by name, each loaded once in a notebook."""

from __future__ import annotations

from functools import cache

from beholder.tasks.dual_encoder import DualEncoder
from beholder.tasks.vision_language import VisionLanguageModel


def encoder(model: str | DualEncoder) -> DualEncoder:
    """The model, loaded if it is a name."""
    return model if isinstance(model, DualEncoder) else _encoder(str(model))


def writer(model: str | VisionLanguageModel) -> VisionLanguageModel:
    """The model, loaded if it is a name."""
    return model if isinstance(model, VisionLanguageModel) else _writer(str(model))


@cache
def _encoder(name: str) -> DualEncoder:
    return DualEncoder.from_pretrained(name)


@cache
def _writer(name: str) -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained(name)
