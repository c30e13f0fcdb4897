"""Results that show themselves where a notebook prints the last value of a cell."""

from __future__ import annotations

from typing import Any

from beholder.notebook.markup import shares, turns

# Of each kind of result where it lives and how it is shown; named, so that none is loaded before there is one.
PICTURES = {
    "beholder.album.question_answering": ("AlbumAnswer",),
    "beholder.album.duplicates": ("DuplicateGroup",),
    "beholder.album.search": ("SearchResult",),
    "beholder.album.picture": ("Picture",),
    "beholder.tasks.dual_encoder": ("EmbeddedPicture",),
    "beholder.tasks.vision_language": ("CaptionedPicture",),
}


def show_results(shell: Any) -> None:
    """Teaches an IPython shell to show pictures that were found or captioned, answers and conversations as HTML."""
    page = shell.display_formatter.formatters["text/html"]
    for module, names in PICTURES.items():
        for name in names:
            page.for_type_by_name(module, name, pictures)
    page.for_type_by_name("beholder.tasks.vision_language", "Answer", answer)
    page.for_type_by_name("beholder.tasks.conversation", "Conversation", conversation)


def pictures(result: Any) -> str:
    """A result about one picture, or about several that are nearly the same."""
    from beholder.notebook.picture_gallery import Gallery

    return Gallery([result])._repr_html_()


def answer(result: Any) -> str:
    """An answer with how sure it is, or the whole choice."""
    return shares(result.choices or [(result.text, result.confidence)])


def conversation(result: Any) -> str:
    """What was asked and said."""
    return turns(result.history)
