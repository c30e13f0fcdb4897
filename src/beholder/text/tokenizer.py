"""A sentence becomes the ids that a network was trained with.

Shapes: B batch, T text tokens.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers

from beholder.errors import InvalidSetting, ModelError
from beholder.text.cleaning import STEPS, Step, clean
from beholder.text.token_display import display_tokens

FILE = "tokenizer.json"


class TruncationWarning(UserWarning):
    """A sentence is longer than the model reads, and its end was left out."""


@dataclass(frozen=True)
class TokenizerSettings:
    """What surrounds the vocabulary.

    Attributes:
        context_length: tokens that the network reads at most, the marks of start and end among them.
        end_id: the mark after the sentence; it stays where the sentence is cut.
        start_id: the mark before it, where there is one.
        pad_id: fills the rows up.
        padding: to the ``longest`` sentence of the batch, or to the ``full`` context length, as networks need that see
            their padding.
        cleaning: what is done to the text before the vocabulary's own rules.
    """

    context_length: int
    end_id: int
    start_id: int | None = None
    pad_id: int = 0
    padding: Literal["longest", "full"] = "longest"
    cleaning: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if self.context_length < 3:
            raise InvalidSetting(f"context_length {self.context_length} leaves no room for a sentence")
        if self.padding not in ("longest", "full"):
            raise InvalidSetting(f"padding {self.padding!r} is neither longest nor full")
        if unknown := set(self.cleaning) - set(STEPS):
            raise InvalidSetting(f"cleaning {', '.join(sorted(unknown))} is none of {', '.join(STEPS)}")


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of sentences: ``ids`` int64 (B, T), ``mask`` bool (B, T) false at padding, ``cut`` the rows cut short."""

    ids: np.ndarray
    mask: np.ndarray
    truncated: tuple[int, ...]


class Tokenizer:
    """Sentences to `Tokens`.

    Whatever a person types is text: ``<|endoftext|>`` or ``[CLS]`` in a sentence become ordinary tokens and never the
    control tokens of that name (the reference implementations do let them through).

    Args:
        backend: the vocabulary and its rules; it is changed to neither cut, nor pad, nor look for control tokens.
        settings: what surrounds it.
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: TokenizerSettings):
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend = backend
        self.settings = settings

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> "Tokenizer":
        """Reads ``tokenizer.json`` of our own folder; ``settings`` is what ``dataclasses.asdict`` made of them.

        Raises:
            ModelError: the file is missing or broken.
            InvalidSetting: a setting is unknown, missing or wrong.
        """
        try:
            made = TokenizerSettings(**{**settings, "cleaning": tuple(settings.get("cleaning", ()))})
        except TypeError as error:
            raise InvalidSetting(f"the tokenizer's settings: {error}") from None
        return cls(read_backend(folder / FILE), made)

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json``; the settings belong into the model's own file."""
        self.backend.save(str(folder / FILE))

    def __call__(self, texts: Sequence[str], numbers: Sequence[int] | None = None) -> Tokens:
        """The ids of B sentences.

        Args:
            texts: the sentences.
            numbers: what messages call them; 1, 2, 3 and so on by default.

        Raises:
            InvalidSetting: a sentence is no text, or holds half a character.

        Warns:
            TruncationWarning: a sentence is too long; it says which, and what is lost.
        """
        if isinstance(texts, str):
            raise InvalidSetting(f"sentences must be a list, not the one text {_quoted(texts)}")
        settings = self.settings
        numbers = range(1, len(texts) + 1) if numbers is None else numbers
        start = [] if settings.start_id is None else [settings.start_id]
        room = settings.context_length - len(start) - 1
        cleaned = [
            clean(validate_text(text, number), settings.cleaning) for text, number in zip(texts, numbers, strict=True)
        ]
        rows, truncated = [], []
        for row, encoding in enumerate(self.backend.encode_batch(cleaned, add_special_tokens=False)):
            rows.append([*start, *encoding.ids[:room], settings.end_id])
            if len(encoding.ids) > room:
                truncated.append(row)
                kept = encoding.offsets[room - 1][1]
                warnings.warn(
                    f"sentence {numbers[row]} ({_quoted(texts[row])}) is too long: it has {len(encoding.ids)} tokens "
                    f"and the model reads {room}. It was cut after {_quoted(cleaned[row][:kept], end=True)}; "
                    f"lost: {_quoted(cleaned[row][kept:])}",
                    TruncationWarning,
                    stacklevel=2,
                )
        longest = settings.context_length if settings.padding == "full" else max(map(len, rows), default=0)
        ids = np.full((len(rows), longest), settings.pad_id, np.int64)  # (B, T)
        mask = np.zeros((len(rows), longest), bool)  # (B, T)
        for row, row_ids in enumerate(rows):
            ids[row, : len(row_ids)] = row_ids
            mask[row, : len(row_ids)] = True
        return Tokens(ids, mask, tuple(truncated))

    def show(self, text: str) -> list[str]:
        """The tokens that the network reads of one sentence, for a person: ``["<start>", "a", "dog", "·go", "<end>"]``.

        A piece that goes on with the word before it begins with ``·``; padding is left out.
        """
        tokens = self([text])
        ids = tokens.ids[tokens.mask].tolist()
        start = ["<start>"] if self.settings.start_id is not None else []
        pieces = [self.backend.id_to_token(token) or f"<{token}>" for token in ids[len(start) : -1]]
        return [*start, *display_tokens(pieces, self.backend.model), "<end>"]


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """The vocabulary and rules in a ``tokenizer.json``.

    Raises:
        ModelError: the file is missing or broken.
    """
    if not file.is_file():
        raise ModelError(f"{file}: this file is needed and missing")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{file}: cannot be read as a tokenizer ({error})") from None


def validate_text(text: object, number: int) -> str:
    """The sentence, if it is one.

    Raises:
        InvalidSetting: it is no text, or holds half a character.
    """
    if not isinstance(text, str):
        raise InvalidSetting(f"sentence {number} is {type(text).__name__} and not a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidSetting(
            f"sentence {number} ({_quoted(text)}) holds half a character, {text[error.start]!a}, at place "
            f"{error.start + 1}: it was decoded wrongly where it came from"
        ) from None
    return text


def _quoted(text: str, end: bool = False, longest: int = 60) -> str:
    """The beginning (or the end) of a text, in quotes, on one line and safe to print."""
    text = " ".join(text.split())
    if len(text) > longest:
        text = f"…{text[-longest:].lstrip()}" if end else f"{text[:longest].rstrip()}…"
    return '"' + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text) + '"'
