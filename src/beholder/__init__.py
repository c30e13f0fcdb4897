"""Beholder sees pictures and tells you about them.

    from beholder import DualEncoder
    encoder = DualEncoder.from_pretrained("mini")
    encoder.classify("photo.jpg", ["a cat", "a dog"])

Names are loaded when they are first used, so that importing the package stays instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from beholder.version import __version__ as __version__

if TYPE_CHECKING:
    from beholder.album.album import Album as Album
    from beholder.errors import BeholderError as BeholderError
    from beholder.errors import PictureError as PictureError
    from beholder.tasks.dual_encoder import DualEncoder as DualEncoder
    from beholder.tasks.generate import ImageGenerator as ImageGenerator
    from beholder.tasks.vision_language import VisionLanguageModel as VisionLanguageModel

_HOME = {
    "Album": "beholder.album.album",
    "BeholderError": "beholder.errors",
    "DualEncoder": "beholder.tasks.dual_encoder",
    "ImageGenerator": "beholder.tasks.generate",
    "PictureError": "beholder.errors",
    "VisionLanguageModel": "beholder.tasks.vision_language",
}
__all__ = [
    "Album",
    "BeholderError",
    "DualEncoder",
    "ImageGenerator",
    "PictureError",
    "VisionLanguageModel",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
