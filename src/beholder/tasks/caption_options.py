"""How captions are generated: every setting of `VisionLanguageModel.caption`, validated once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from beholder.errors import InvalidSetting
from beholder.pictures.read import Limits
from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.inputs import checked_batch_size


@dataclass(frozen=True)
class CaptionOptions:
    """The settings of captioning.

    Attributes:
        prompt: the start of the sentence, such as "this garment is"; the model's own by default. The caption is what
            follows it.
        max_new_tokens: maximum length of a caption, in tokens.
        num_beams: beams of the beam search, 3 by default; 1 is greedy decoding. Excluded by ``top_p``.
        top_p: sample from the smallest set of tokens whose probabilities add up to this (nucleus sampling).
        temperature: of sampling; above 1 flattens the distribution.
        repetition_penalty: above 1 makes tokens that were already generated less likely.
        no_repeat_ngram_size: n-grams of this size are never repeated; 0 allows them.
        length_penalty: above 1 favors longer captions.
        num_candidates: generate this many captions per picture, the best beams or samples of ``top_p``, and keep the
            one that matches the picture best (`VisionLanguageModel.match`), the prompt included. The model's own number
            by default (12 for ``mini``), but 1 if ``num_beams`` or ``top_p`` is given.
        seed: random seed of sampling.
        batch_size: pictures per batch.
        exact: decode large JPEGs at full resolution.
        allow_urls: fetch http(s) addresses.
        limits: maximum pixels, bytes and sides of a picture.
        on_token: called before each token; an exception aborts generation.

    Raises:
        InvalidSetting: a setting is out of range, or two exclude each other.
    """

    prompt: str | None = None
    max_new_tokens: int = 20
    num_beams: int | None = None
    top_p: float | None = None
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 3
    length_penalty: float = 1.0
    num_candidates: int | None = None
    seed: int = 0
    batch_size: int = 8
    exact: bool = False
    allow_urls: bool = False
    limits: Limits | None = None
    on_token: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if self.num_candidates is not None and self.num_candidates < 1:
            raise InvalidSetting("num_candidates must be at least 1")
        checked_batch_size(self.batch_size)
        self.decoding()

    def decoding(self) -> DecodingSettings:
        """Return the settings of the decoder."""
        return DecodingSettings(
            max_new_tokens=self.max_new_tokens,
            num_beams=1 if self.top_p else 3 if self.num_beams is None else self.num_beams,
            top_p=self.top_p,
            temperature=self.temperature,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            length_penalty=self.length_penalty,
            seed=self.seed,
        )

    def candidates(self, default: int) -> int:
        """Return how many captions to generate per picture, given the model's own number."""
        if self.num_candidates is not None:
            return self.num_candidates
        return default if self.num_beams is None and self.top_p is None else 1
