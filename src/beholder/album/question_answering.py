"""Questions to a whole album, put to the pictures that the search finds for them.

Whether a picture is relevant is the search's decision (`SearchResult.fits`). A question that asks for pictures
("which photographs show …?") is answered with their captions; any other question is put to each picture as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beholder.album.store import Picture
from beholder.errors import PictureError

if TYPE_CHECKING:
    from beholder.album.album import Album
    from beholder.tasks.vision_language import VisionLanguageModel

# What makes a question of a description: "on which photographs is the dog in water?" asks for "the dog in water".
QUESTION_PREFIX = re.compile(
    r"""^\s*(?:(?:(?:on|in)\s+)?(?:which|what|how\s+many)(?:\s+of\s+(?:my|the|these))?\s+
        (?:photographs?|photos?|pictures?|images?)\s*(?:show|shows|have|has|contain|contains|with|of|is|are|do|does)?
    |where\s+(?:is|are)|(?:is|are)\s+there(?:\s+any)?(?:\s+(?:photographs?|photos?|pictures?|images?)\s+(?:of|with))?
    |(?:show|find)(?:\s+me)?)\s+(?:(?:is|are|can\s+one\s+see)\s+)?""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class AlbumAnswer:
    """What one picture says to the question.

    Attributes:
        picture: that was looked at.
        answer: the model's words.
        confidence: of the answer, 0 to 1; None where it is a caption.
        match: how sure the search is that the picture shows what the question is about; None if it can't tell.
        relied_on: whether the picture bears on the question.
    """

    picture: Picture
    answer: str
    confidence: float | None
    match: float | None
    relied_on: bool


def strip_question(question: str) -> str:
    """What a question is about, without the words that only ask."""
    return QUESTION_PREFIX.sub("", question, count=1).strip().rstrip("?.! ") or question.strip()


def ask_album(
    album: Album, writer: VisionLanguageModel, question: str, *, where: str | None = None, top: int = 8
) -> Iterator[AlbumAnswer | PictureError]:
    """Answers from the pictures nearest to a question, the nearest first; an error for one that can't be read any more.

    Args:
        album: that is asked.
        writer: looks at each picture.
        question: in words.
        where: a filter.
        top: pictures to look at.
    """
    about = strip_question(question)
    for found in album.search(about, where=where, top=top):
        path, confidence = found.picture.path, None
        try:
            if QUESTION_PREFIX.match(question):
                words = writer.caption(path)
            else:
                answer = writer.ask(path, question)
                words, confidence = answer.text, answer.confidence
        except PictureError as error:
            yield error
            continue
        yield AlbumAnswer(found.picture, words, confidence, found.match, found.fits)
