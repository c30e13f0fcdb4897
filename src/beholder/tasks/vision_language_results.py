"""What a vision-language model returns: captions and answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

WEAK_CAPTION_THRESHOLD = 0.5  # matching probability below which a person should check a caption


@dataclass(frozen=True)
class CaptionedPicture:
    """A captioned picture of a stream.

    Attributes:
        index: position in the call.
        name: the picture's path, address, or "picture N".
        caption: the best candidate.
        score: probability that the caption matches (`VisionLanguageModel.match`); None for a single candidate.
        candidates: all candidates with their scores, best first; empty for a single candidate.
        fields: the values of ``CaptionOptions.fields``; None without them. The caption is then their JSON object.
    """

    index: int
    name: str
    caption: str
    score: float | None = None
    candidates: tuple[tuple[str, float], ...] = ()
    fields: dict[str, str | None] | None = None
    error: None = field(default=None, init=False, repr=False)

    @property
    def weak(self) -> bool:
        """Whether a person should check this caption."""
        return self.score is not None and self.score < WEAK_CAPTION_THRESHOLD


@dataclass(frozen=True)
class Answer:
    """An answer, its probability according to the model, and the ranked choices if there were any.

    To a question in a script that the language model can't read, it is a sentence that says so, with probability 0.
    ``confidence`` is None for a model that does not report probabilities, such as one behind an address.
    """

    text: str
    confidence: float | None
    choices: tuple[tuple[str, float], ...] = ()


def rank(texts: Sequence[str], scores: Sequence[float]) -> list[tuple[str, float]]:
    """Return the texts with their scores, highest first."""
    return sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
