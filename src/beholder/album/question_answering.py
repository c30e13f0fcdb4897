"""Questions to a whole album, put to the pictures that the search finds for them.

Whether a picture is relevant is the search's decision (`SearchResult.fits`). A question that asks for pictures
("which photographs show …?", 哪些照片里有…？) is answered with their captions; any other question is put to each
picture as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beholder.album.picture import Picture
from beholder.errors import PictureError
from beholder.text.script import is_chinese

if TYPE_CHECKING:
    from beholder.album.album import Album
    from beholder.tasks.vision_language import VisionLanguageModel

# The words that turn a description into a question: "on which photographs is the dog in water?" is about "the dog in
# water".
QUESTION_PREFIX = re.compile(
    r"""^\s*(?:(?:(?:on|in)\s+)?(?:which|what|how\s+many)(?:\s+of\s+(?:my|the|these))?\s+
        (?:photographs?|photos?|pictures?|images?)\s*(?:show|shows|have|has|contain|contains|with|of|is|are|do|does)?
    |where\s+(?:is|are)|(?:is|are)\s+there(?:\s+any)?(?:\s+(?:photographs?|photos?|pictures?|images?)\s+(?:of|with))?
    |(?:show|find)(?:\s+me)?)\s+(?:(?:is|are|can\s+one\s+see)\s+)?""",
    re.VERBOSE | re.IGNORECASE,
)
CHINESE_PREFIX = re.compile(
    r"^\s*(?:在)?(?:哪一?些?几?张?|什么|有没有|找出?|给我看看?|显示)(?:照片|图片|相片|图)?(?:里面?|中|上)?(?:拍到了?|显示|有|是)?"
)
CHINESE_SUFFIX = re.compile(r"的?(?:照片|图片|相片)?(?:吗|呢)?[？?。！!\s]*$")


@dataclass(frozen=True)
class AlbumAnswer:
    """The answer from one picture.

    Attributes:
        picture: that the model was shown.
        answer: the model's words.
        confidence: in the answer, 0 to 1; None if it is a caption.
        match: probability that the picture shows what the question is about; None without a calibration.
        relied_on: whether the picture is relevant to the question.
    """

    picture: Picture
    answer: str
    confidence: float | None
    match: float | None
    relied_on: bool


def strip_question(question: str) -> str:
    """Return what a question is about, to search for."""
    if is_chinese(question):
        return CHINESE_SUFFIX.sub("", CHINESE_PREFIX.sub("", question, count=1), count=1) or question.strip()
    return QUESTION_PREFIX.sub("", question, count=1).strip().rstrip("?.! ") or question.strip()


def ask_album(
    album: Album,
    model: VisionLanguageModel,
    question: str,
    *,
    where: str | None = None,
    top: int = 8,
    max_new_tokens: int = 10,
) -> Iterator[AlbumAnswer | PictureError]:
    """Answer a question from the pictures nearest to it, the nearest first.

    Args:
        album: searched for pictures.
        model: shown each picture.
        question: in words.
        where: a filter.
        top: number of pictures.
        max_new_tokens: maximum length of an answer, in tokens.

    Yields:
        An answer, or the error of a picture that can't be read any more.
    """
    for found in album.search(strip_question(question), where=where, top=top):
        source, confidence = found.picture.source, None
        try:
            if QUESTION_PREFIX.match(question) or CHINESE_PREFIX.match(question):
                words = model.caption(source)
            else:
                answer = model.ask(source, question, max_new_tokens=max_new_tokens)
                words, confidence = answer.text, answer.confidence
        except PictureError as error:
            yield error
            continue
        yield AlbumAnswer(found.picture, words, confidence, found.match, found.fits)
