"""Text to token ids.

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
MULTILINGUAL_FILE = "multilingual-tokenizer.json"  # of a second text tower, in the same folder


class TruncationWarning(UserWarning):
    """A text is longer than the model's context and was truncated."""


@dataclass(frozen=True)
class TokenizerSettings:
    """Special tokens, padding and cleaning around a vocabulary.

    Attributes:
        context_length: maximum number of tokens, start and end tokens included.
        end_id: the end token; a truncated text keeps it.
        start_id: the start token, if any.
        pad_id: the padding token.
        padding: to the ``longest`` text of the batch, or to the ``full`` context length, for networks that attend to
            padding.
        cleaning: steps before the vocabulary's own rules.
    """

    context_length: int
    end_id: int
    start_id: int | None = None
    pad_id: int = 0
    padding: Literal["longest", "full"] = "longest"
    cleaning: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if self.context_length < 3:
            raise InvalidSetting(f"context_length {self.context_length} leaves no room for text")
        if self.padding not in ("longest", "full"):
            raise InvalidSetting(f"padding {self.padding!r} is neither longest nor full")
        if unknown := set(self.cleaning) - set(STEPS):
            raise InvalidSetting(f"cleaning {', '.join(sorted(unknown))} is none of {', '.join(STEPS)}")


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of texts: ``ids`` int64 (B, T), ``mask`` bool (B, T) false at padding, ``truncated`` the cut rows."""

    ids: np.ndarray
    mask: np.ndarray
    truncated: tuple[int, ...]


class Tokenizer:
    """Texts to `Tokens`.

    Special tokens are never parsed from user text: ``<|endoftext|>`` or ``[CLS]`` in a text become ordinary tokens (the
    reference implementations do let them through).

    Args:
        backend: the vocabulary and its rules; its truncation, padding and parsing of special tokens are switched off.
        settings: special tokens, padding and cleaning.
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: TokenizerSettings):
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend = backend
        self.settings = settings

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any], file: str = FILE) -> "Tokenizer":
        """Load ``tokenizer.json`` of our own folder; ``settings`` is a `TokenizerSettings` as a dictionary.

        Raises:
            ModelError: the file is missing or damaged.
            InvalidSetting: a setting is unknown, missing or wrong.
        """
        try:
            loaded = TokenizerSettings(**{**settings, "cleaning": tuple(settings.get("cleaning", ()))})
        except TypeError as error:
            raise InvalidSetting(f"the tokenizer's settings: {error}") from None
        return cls(read_backend(folder / file), loaded)

    def save(self, folder: Path, file: str = FILE) -> None:
        """Write ``tokenizer.json``; the settings belong in the model's own file."""
        self.backend.save(str(folder / file))

    def __call__(self, texts: Sequence[str], numbers: Sequence[int] | None = None) -> Tokens:
        """Tokenize B texts.

        Args:
            texts: list of str.
            numbers: by which messages refer to the texts; 1, 2, 3 and so on by default.

        Raises:
            InvalidSetting: a text is not a str, or has an unpaired surrogate.

        Warns:
            TruncationWarning: a text is too long; the message says which, and what is lost.
        """
        if isinstance(texts, str):
            raise InvalidSetting(f"texts must be a list, not the single text {_quoted(texts)}")
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
                    f"and the model reads {room}. It was truncated after {_quoted(cleaned[row][:kept], end=True)}; "
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

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text in readable form: ``["<start>", "a", "dog", "·go", "<end>"]``.

        A token that continues the word before it starts with ``·``; padding is left out.
        """
        batch = self([text])
        ids = batch.ids[batch.mask].tolist()
        start = ["<start>"] if self.settings.start_id is not None else []
        tokens = [self.backend.id_to_token(token) or f"<{token}>" for token in ids[len(start) : -1]]
        return [*start, *display_tokens(tokens, self.backend.model), "<end>"]


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """Load the vocabulary and rules of a ``tokenizer.json``.

    Raises:
        ModelError: the file is missing or damaged.
    """
    if not file.is_file():
        raise ModelError(f"{file}: this file is required and missing")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(f"{file}: cannot be read as a tokenizer ({error})") from None


def validate_text(text: object, number: int) -> str:
    """Return the text, if it is valid.

    Raises:
        InvalidSetting: it is not a str, or has an unpaired surrogate.
    """
    if not isinstance(text, str):
        raise InvalidSetting(f"sentence {number} is {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidSetting(
            f"sentence {number} ({_quoted(text)}) has an unpaired surrogate, {text[error.start]!a}, at "
            f"position {error.start + 1}: its source was decoded wrongly"
        ) from None
    return text


def _quoted(text: str, end: bool = False, longest: int = 60) -> str:
    """Return the beginning (or the end) of a text, in quotes, on one line and safe to print."""
    text = " ".join(text.split())
    if len(text) > longest:
        text = f"…{text[-longest:].lstrip()}" if end else f"{text[:longest].rstrip()}…"
    return '"' + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text) + '"'
