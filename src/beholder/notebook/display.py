"""HTML formatters for results, which a notebook uses to display the last value of a cell."""

from __future__ import annotations

from typing import Any

from beholder.notebook.markup import conversation_html, escape_html, probability_table

# Result types by module, as names, so that no module is imported before it is used.
PICTURES = {
    "beholder.album.question_answering": ("AlbumAnswer",),
    "beholder.album.duplicates": ("DuplicateGroup",),
    "beholder.album.search": ("SearchResult",),
    "beholder.album.picture": ("Picture",),
    "beholder.tasks.dual_encoder": ("EmbeddedPicture",),
    "beholder.tasks.pictures": ("FailedPicture",),
    "beholder.tasks.vision_language_results": ("CaptionedPicture",),
}


def register_formatters(shell: Any) -> None:
    """Register HTML formatters of found and captioned pictures, answers and conversations with an IPython shell."""
    page = shell.display_formatter.formatters["text/html"]
    for module, names in PICTURES.items():
        for name in names:
            page.for_type_by_name(module, name, pictures)
    page.for_type_by_name("beholder.tasks.vision_language_results", "Answer", answer)
    page.for_type_by_name("beholder.tasks.conversation", "Conversation", conversation)


def pictures(result: Any) -> str:
    """Return a result about one picture, or a group of near-duplicates, as HTML."""
    from beholder.notebook.picture_gallery import Gallery

    return Gallery([result])._repr_html_()


def answer(result: Any) -> str:
    """Return an answer with its confidence, or all ranked choices, as HTML."""
    if result.confidence is None:
        return f"<p>{escape_html(result.text)}</p>"
    return probability_table(result.choices or [(result.text, result.confidence)])


def conversation(result: Any) -> str:
    """Return the questions and answers as HTML."""
    return conversation_html(result.history)
