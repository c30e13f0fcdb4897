"""What `beholder.tasks.image_text_to_text_model` needs of a model, and what its back ends have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from beholder.errors import InvalidSetting
from beholder.runtime.decoding import DecodingSettings
from beholder.weights.image_text_to_text import PlainPrompts

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

THINKING_TOKENS = 2048  # that a model may think before its answer, beside max_new_tokens

Message = dict[str, Any]
Encode = Callable[[str], Any]  # a prompt to the inputs for it and for given pictures


@dataclass(frozen=True)
class Generated:
    """A generated text.

    Attributes:
        ids: its tokens, without the end token.
        text: it, without special tokens and without what the model thought before it.
        log_prob: its log-probability, that of the end token included.
        finished: whether it ended by itself.
    """

    ids: list[int]
    text: str
    log_prob: float
    finished: bool


class ImageTextToTextGenerator(Protocol):
    """A network that generates text after pictures and a prompt, with what makes these ready for it."""

    device: torch.device

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def model_type(self) -> str:
        """The family."""
        ...

    @property
    def plain_prompts(self) -> PlainPrompts | None:
        """How a family without a chat template is prompted."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at most, those of pictures included; 0 if unknown."""
        ...

    @property
    def min_picture_tokens(self) -> int:
        """Tokens that any picture takes at least."""
        ...

    def plain(self, text: str) -> str:
        """Return a text in which nothing is a control token."""
        ...

    def checked_question(self, question: str) -> str:
        """Return a question on one line, without control tokens, or raise `InvalidSetting`."""
        ...

    def render(self, messages: list[Message], start: str = "") -> str:
        """Return a conversation as the chat template writes it, and the start of the answer, or raise `ModelError`."""
        ...

    def encode(self, images: Sequence[Sequence[Image]], texts: Sequence[str]) -> Any:
        """Return the inputs for prompts, each with its pictures."""
        ...

    def prompt_length(self, inputs: Any) -> int:
        """Return the number of tokens of the longest prompt, those of its pictures included."""
        ...

    def generate(
        self,
        inputs: Any,
        settings: DecodingSettings,
        *,
        count: int = 1,
        thinking: bool = False,
        on_token: Callable[[], None] | None = None,
    ) -> list[list[Generated]]:
        """Generate ``count`` texts for each prompt.

        Args:
            inputs: of `encode`.
            settings: how to decode.
            count: texts per prompt: the best beams, or samples.
            thinking: the prompt makes the model think first.
            on_token: called before each token; an exception aborts generation.
        """
        ...

    def answer_log_probs(self, inputs: Any, prompt: str, answers: Sequence[str]) -> list[float]:
        """Return the log-probability of each answer to a single prompt, that of the end after it included."""
        ...


def check_length(generator: ImageTextToTextGenerator, length: int, max_new_tokens: int, pictures: int = 1) -> None:
    """Raise `InvalidSetting` if a prompt of ``length`` tokens leaves no room for new ones."""
    context = generator.context_length
    if context and length + max_new_tokens > context:
        what = "picture and prompt" if pictures == 1 else f"{pictures} pictures and the prompt"
        raise InvalidSetting(
            f"{generator.name}: {what} have {length} tokens; with {max_new_tokens} new ones they exceed the model's "
            f"context of {context}. {'Shorten the prompt' if pictures == 1 else 'Leave out pictures'}"
        )


def check_pictures(generator: ImageTextToTextGenerator, pictures: int) -> None:
    """Raise `InvalidSetting` if there are no pictures, or more than the context can hold; none has been read yet."""
    if not pictures:
        raise InvalidSetting("the list of pictures is empty")
    context = generator.context_length
    if context and pictures * generator.min_picture_tokens > context:
        raise InvalidSetting(
            f"{generator.name}: {pictures} pictures exceed the model's context of {context} tokens: each takes at "
            f"least {generator.min_picture_tokens}"
        )


def user_message(text: str, *, pictures: int) -> Message:
    """Return a message of the user; the pictures stand before the text."""
    return {"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}


def separator(prompt: str) -> str:
    """Return what stands between a prompt and an answer: a space after a word or a colon."""
    return " " if prompt and (prompt[-1].isalnum() or prompt[-1] in ":.,?!") else ""


def broken_control_token(token: str) -> str:
    """Return the spelling of a control token as plain text: broken by a space."""
    return f"{token[:1]} {token[1:]}"
