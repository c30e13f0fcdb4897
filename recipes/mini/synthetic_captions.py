"""Synthetic captions: sentences recombined from real captions, and the global tokens that an image of one would have.

The global tokens of an image live in the space of a text encoder (`beholder.models.global_token_encoder`), so a
sentence can be mapped to such tokens without an image. Residuals of real photographs simulate what the mapping misses.

Source: noise injection as in Nukrai et al., *Text-Only Training for Image Captioning using Noise-Injected CLIP*
(arXiv:2211.00575), here with measured residuals instead of a normal distribution.

Shapes: n photographs, C captions each, S width of a sentence embedding, W width of the global tokens, m sentences.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beholder.errors import InvalidSetting

PLACE = re.compile(
    r"\b(?:on|in|at|near|through|over|down|along|across|by|against|behind|under|beside|into|around|off|from|towards?|"
    r"next to|outside|inside)\b"
)
SENTENCE = re.compile(r"(?P<who>.{3,60}?) (?:(?:is|are) )?(?P<does>[a-z]{2,}ing\b.*)")
SEVERAL = re.compile(r"\b(?:two|three|four|several|many|some|people|men|women|children|dogs|boys|girls|kids|and)\b")
LONGEST = 18  # words
WITH_VERB = 0.7  # share of sentences that say "is" or "are"


def parse_caption(caption: str) -> tuple[str, str, str] | None:
    """Split a caption into subject, action and place, in lower case; None if it has another structure.

    The place may be empty.
    """
    text = " ".join(caption.lower().split()).rstrip(" .")
    found = SENTENCE.fullmatch(text)
    if not found or re.search(r"[,.\"]", text):
        return None
    does = found["does"]
    places = [place.start() for place in PLACE.finditer(does)]
    cut = places[-1] if places else len(does)
    return found["who"], does[:cut].strip(), does[cut:].strip()


def recombine_captions(captions: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    """Return up to ``count`` distinct sentences: subject of one caption, action of another, place of a third.

    Raises:
        InvalidSetting: No caption has these parts.
    """
    parsed = [found for caption in captions if (found := parse_caption(caption))]
    if not parsed:
        raise InvalidSetting("none of the captions tells who does what, as 'a dog is running in the snow' does")
    sentences: dict[str, None] = {}
    for one, two, three in generator.integers(len(parsed), size=(count, 3)):
        who, does, where = parsed[one][0], parsed[two][1], parsed[three][2]
        verb = ("are" if SEVERAL.search(who) else "is") if generator.random() < WITH_VERB else ""
        sentence = " ".join(part for part in (who, verb, does, where) if part)
        if len(sentence.split()) <= LONGEST:
            sentences[sentence] = None
    return list(sentences)


@dataclass(frozen=True)
class ImageTokenRegression:
    """Linear regression from sentence embeddings to the global tokens of an image, with its residuals."""

    sentence: np.ndarray  # (S,), the mean
    token: np.ndarray  # (W,)
    matrix: np.ndarray  # (S, W)
    rest: np.ndarray  # (n C, W)

    @classmethod
    def fit(cls, captions: np.ndarray, tokens: np.ndarray, ridge: float = 0.01) -> "ImageTokenRegression":
        """Fit by ridge regression on photographs.

        Args:
            captions: Sentence embeddings (n, C, S) of the photographs' captions.
            tokens: Global tokens (n, W) of the photographs.
            ridge: Ridge in units of the mean variance of an embedding dimension.
        """
        sentences = captions.reshape(-1, captions.shape[-1]).astype(np.float64)
        targets = np.repeat(tokens.astype(np.float64), captions.shape[1], axis=0)
        middle, centre = sentences.mean(0), targets.mean(0)
        moment = (sentences - middle).T @ (sentences - middle)
        moment += ridge * np.trace(moment) / len(moment) * np.eye(len(moment))
        matrix = np.linalg.solve(moment, (sentences - middle).T @ (targets - centre))
        rest = targets - centre - (sentences - middle) @ matrix
        return cls(*(part.astype(np.float32) for part in (middle, centre, matrix, rest)))

    def tokens(self, sentences: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Map sentence embeddings (m, S) to tokens (m, W), each with the residual of a random photograph."""
        rest = self.rest[generator.integers(len(self.rest), size=len(sentences))]
        return self.token + (sentences - self.sentence) @ self.matrix + rest
