"""How captions are generated: every setting of `VisionLanguageModel.caption`, validated once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from beholder.errors import InvalidSetting
from beholder.pictures.read import Limits
from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.inputs import checked_batch_size

Style = Literal["short", "long", "alt-text", "product", "keywords"]
Context = Literal["place", "date", "keywords"]
MIN_NEW_TOKENS = {"long": 160, "alt-text": 60, "product": 160, "keywords": 60}  # that such a caption needs
FIELD_TOKENS = 24  # for each of ``fields``


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
        style: what the caption is like: ``"short"`` (one sentence), ``"long"`` (a paragraph), ``"alt-text"`` (for
            those who can't see the picture), ``"product"`` (for a shop), ``"keywords"`` (a list). This and the
            following are for models that follow instructions; they raise ``max_new_tokens`` to what they need.
        instruction: what the model is told to do, in place of a style.
        language: of the caption, such as ``"zh"``, for models that know it.
        fields: answer with one JSON object that has these keys, such as ``("color", "material")``
            (`CaptionedPicture.fields`).
        context: what the model is told of the file's metadata: ``"place"``, ``"date"``, ``"keywords"`` (persons are
            among them).

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
    style: Style | None = None
    instruction: str | None = None
    language: str = ""
    fields: tuple[str, ...] = ()
    context: tuple[Context, ...] = ()

    def __post_init__(self) -> None:
        if self.num_candidates is not None and self.num_candidates < 1:
            raise InvalidSetting("num_candidates must be at least 1")
        checked_batch_size(self.batch_size)
        if self.style is not None and self.style not in get_args(Style):
            raise InvalidSetting(f"style {self.style!r} is none of {', '.join(get_args(Style))}")
        for each in self.context:
            if each not in get_args(Context):
                raise InvalidSetting(f"context {each!r} is none of {', '.join(get_args(Context))}")
        if any(not isinstance(name, str) or not name.strip() for name in self.fields):
            raise InvalidSetting("fields must be names")
        if len(set(self.fields)) < len(self.fields):
            raise InvalidSetting("fields must differ from one another")
        if self.instruction is not None and not self.instruction.strip():
            raise InvalidSetting("the instruction is empty")
        given = {"style": self.style, "instruction": self.instruction, "fields": self.fields, "prompt": self.prompt}
        chosen = [name for name, value in given.items() if value and name != "prompt"]
        if len(chosen) > 1 or (self.fields and self.prompt):
            raise InvalidSetting(f"{' and '.join(name for name, value in given.items() if value)} exclude each other")
        self.decoding()

    @property
    def instructs(self) -> list[str]:
        """The options that only a model that follows instructions can honor; a short English caption is any model's."""
        asked = {
            "style": self.style not in (None, "short"),
            "instruction": self.instruction is not None,
            "language": self.language not in ("", "en"),
            "fields": bool(self.fields),
            "context": bool(self.context),
        }
        return [name for name, value in asked.items() if value]

    def with_room(self) -> CaptionOptions:
        """Return the options with as many new tokens as the style or the fields need, and text as they have it."""
        needed = max(MIN_NEW_TOKENS.get(self.style or "", 0), FIELD_TOKENS * len(self.fields))
        more = replace(self, max_new_tokens=max(self.max_new_tokens, needed))
        return replace(more, no_repeat_ngram_size=0) if self.fields else more

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
