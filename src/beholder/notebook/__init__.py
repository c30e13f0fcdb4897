"""Widgets for a notebook.

from beholder.notebook import chat, draw, gallery, similarity
chat("photo.jpg")

Importing it in a notebook also registers formatters, so that results display themselves: search results, captioned
pictures, answers and conversations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beholder.notebook.chat_box import ChatBox
    from beholder.notebook.drawing_box import DrawingBox
    from beholder.notebook.matrix import SimilarityMatrix
    from beholder.notebook.picture_gallery import Gallery
    from beholder.pictures.read import ImageSource
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.generate import ImageGenerator
    from beholder.tasks.vision_language import VisionLanguageModel

__all__ = ["chat", "draw", "gallery", "similarity"]


def chat(image: ImageSource, model: str | VisionLanguageModel = "mini", *, max_new_tokens: int = 40) -> ChatBox:
    """Return a picture with a box for questions next to it; the conversation is shown above the box.

    Args:
        image: one picture.
        model: a name, a folder, a hub id, or a loaded model.
        max_new_tokens: maximum length of an answer, in tokens.

    Raises:
        PictureError: the picture can't be used.
        MissingExtra: ipywidgets is not installed.
    """
    from beholder.errors import MissingExtra

    try:
        from beholder.notebook.chat_box import ChatBox
    except ModuleNotFoundError as error:
        raise MissingExtra("a chat in a notebook", "notebook") from error
    from beholder.notebook.models import load_vision_language_model

    return ChatBox(image, load_vision_language_model(model).chat(image, max_new_tokens=max_new_tokens))


def draw(text: str = "", model: str | ImageGenerator = "mini", **options: Any) -> DrawingBox:
    """Return a box for what to draw, with a button; the pictures are shown below it as they grow.

    Args:
        text: in the box at first.
        model: a folder, or a loaded model.
        options: of `ImageGenerator.plan`, such as ``count``, ``like`` and ``seed``.

    Raises:
        ModelNotFound: there is no such model.
        MissingExtra: ipywidgets is not installed.
    """
    from beholder.errors import MissingExtra

    try:
        from beholder.notebook.drawing_box import DrawingBox
    except ModuleNotFoundError as error:
        raise MissingExtra("drawing in a notebook", "notebook") from error
    from beholder.notebook.models import load_image_generator

    return DrawingBox(load_image_generator(model), text, options)


def gallery(results: Iterable[Any]) -> Gallery:
    """Return pictures side by side.

    Args:
        results: pictures; pairs of a picture and a number or text to show below it; the results of `Album.search`,
            `Album.pictures`, `Album.duplicates` and `ask_album`; or, for pictures from files, those of
            `VisionLanguageModel.stream_captions` and `DualEncoder.stream_images`.
    """
    from beholder.notebook.picture_gallery import Gallery

    return Gallery(results)


def similarity(
    images: Sequence[ImageSource], texts: Sequence[str], model: str | DualEncoder = "mini"
) -> SimilarityMatrix:
    """Return a table of how well each sentence matches each picture, with the arrays ``cosines`` and ``match``.

    The arguments and errors are those of `DualEncoder.similarity`; ``model`` is a name, a folder, a hub id, or a
    loaded model.
    """
    from beholder.notebook.matrix import SimilarityMatrix
    from beholder.notebook.models import load_encoder

    return SimilarityMatrix.of(load_encoder(model), list(images), list(texts))


def _register_formatters() -> None:
    # IPython is loaded only in a program that runs in it, so nothing heavy is imported to find out.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from beholder.notebook.display import register_formatters

        register_formatters(shell)


_register_formatters()
