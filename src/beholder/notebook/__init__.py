"""Widgets for a notebook.

from beholder.notebook import chat, gallery, similarity
chat("photo.jpg")

Importing it in a notebook also lets results show themselves: one that a search found, a caption with its picture, an
answer with a bar, a conversation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beholder.notebook.chat_box import ChatBox
    from beholder.notebook.matrix import Matrix
    from beholder.notebook.picture_gallery import Gallery
    from beholder.pictures.read import ImageSource
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.vision_language import VisionLanguageModel

__all__ = ["chat", "gallery", "similarity"]


def chat(image: ImageSource, model: str | VisionLanguageModel = "mini", *, max_new_tokens: int = 40) -> ChatBox:
    """A picture with a box for questions beside it; what was said stands above the box.

    Args:
        image: one picture.
        model: a name, a folder, a hub id, or a model that is loaded.
        max_new_tokens: longest answer, in tokens.

    Raises:
        PictureError: the picture can't be used.
        MissingExtra: ipywidgets is not installed.
    """
    from beholder.errors import MissingExtra

    try:
        from beholder.notebook.chat_box import ChatBox
    except ModuleNotFoundError as error:
        raise MissingExtra("a conversation in a notebook", "notebook") from error
    from beholder.notebook.models import writer

    return ChatBox(image, writer(model).chat(image, max_new_tokens=max_new_tokens))


def gallery(results: Iterable[Any]) -> Gallery:
    """Pictures side by side.

    Args:
        results: pictures; pairs of a picture and a number or words to stand below it; what `Album.search`,
            `Album.pictures`, `Album.duplicates` and `ask_album` give; or what `VisionLanguageModel.stream_captions` and
            `DualEncoder.stream_images` give, for pictures from files.
    """
    from beholder.notebook.picture_gallery import Gallery

    return Gallery(results)


def similarity(images: Sequence[ImageSource], texts: Sequence[str], model: str | DualEncoder = "mini") -> Matrix:
    """How well each sentence fits each picture: a table to look at, with ``cosines`` and ``match`` as arrays.

    The arguments and errors are those of `DualEncoder.similarity`; ``model`` is a name, a folder, a hub id, or a model
    that is loaded.
    """
    from beholder.notebook.matrix import Matrix
    from beholder.notebook.models import encoder

    return Matrix.of(encoder(model), list(images), list(texts))


def _show_results() -> None:
    # Only a program that runs in IPython has it loaded, so nothing heavy is imported to find out.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from beholder.notebook.display import show_results

        show_results(shell)


_show_results()
