"""Text to a language model's tokens and back, within its prompts and its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beholder.errors import InvalidSetting, ModelError

if TYPE_CHECKING:
    import tokenizers
    from torch import Tensor

    from beholder.runtime.decoding import Language
    from beholder.text.prompts import Prompts


@dataclass(frozen=True)
class TextCodec:
    """Encodes prompts and questions, and decodes captions and answers.

    Text that spells a special token, such as ``</s>``, is encoded as ordinary text.

    Attributes:
        tokenizer: the language model's; None for a bridge without a language model.
        prompts: the text around a task.
        context_length: tokens that the language model reads at most; 0 if unlimited.
        soft_prompts: soft prompts per image, which count towards the context.
        name: of the model, for messages.
    """

    tokenizer: tokenizers.Tokenizer | None
    prompts: Prompts
    context_length: int
    soft_prompts: int
    name: str

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of a text; with ``special``, those that start a sequence are added.

        Raises:
            ModelError: the model has no language model.
        """
        if self.tokenizer is None:
            raise ModelError(f"{self.name}: this model has no language model, so it can't generate text")
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens, without special tokens and with its whitespace normalized."""
        if self.tokenizer is None:
            raise ModelError(f"{self.name}: this model has no language model, so it can't generate text")
        return self.prompts.postprocess(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def encode_prompt(self, prompt: str, max_new_tokens: int) -> list[int]:
        """Return the tokens of a prompt that leaves room for the image and ``max_new_tokens`` new tokens.

        Raises:
            InvalidSetting: the prompt is not a str, or does not leave that room.
            ModelError: the model has no language model.
        """
        if not isinstance(prompt, str):
            raise InvalidSetting(f"the prompt must be a str, not {type(prompt).__name__}")
        ids = self.encode(prompt, special=True)
        total = self.soft_prompts + len(ids) + max_new_tokens
        if self.context_length and total > self.context_length:
            raise InvalidSetting(
                f"the prompt has {len(ids)} tokens; with {self.soft_prompts} for the picture and {max_new_tokens} new "
                f"ones that is {total}, and the language model reads {self.context_length}. Shorten it"
            )
        return ids

    def words(self, ids: Sequence[int]) -> tuple[list[str], list[int]]:
        """Return the words that tokens spell, and for each token the index of its word."""
        words: list[str] = []
        word_of_token: list[int] = []
        text = ""
        for end in range(1, len(ids) + 1):
            longer = self.decode(ids[:end])
            piece, text = longer[len(text) :], longer
            if not words or piece.startswith(" ") or (piece and not piece[0].isalnum() and words[-1].isalnum()):
                words.append("")
            words[-1] += piece.strip()
            word_of_token.append(len(words) - 1)
        return words, word_of_token


def append_tokens(language: Language, prompts: Tensor, ids: Sequence[int]) -> Tensor:
    """Return soft prompts (B, Q, D) followed by the embeddings of the same tokens in each row: (B, Q + T, D)."""
    import torch

    if not ids:
        return prompts
    tokens = language.embed(torch.tensor([list(ids)], device=prompts.device)).expand(len(prompts), -1, -1)
    return torch.cat([prompts.to(tokens.dtype), tokens], 1)
