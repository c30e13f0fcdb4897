"""What `beholder.tasks.image_text_to_text_model` needs of a model, and what its back ends have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from beholder.errors import InvalidSetting, ModelError
from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.thinking import CLOSE, starts_thinking
from beholder.text.prompts import checked_question
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


class Named(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def model_type(self) -> str:
        """The family."""
        ...


class ImageTextToTextGenerator(ABC):
    """A network that generates text after pictures and a prompt, with what makes these ready for it.

    Attributes:
        loaded: what says the model's name and family.
        device: where it runs.
        plain_prompts: how a family without a chat template is prompted.
        min_picture_tokens: tokens that any picture takes at least.
    """

    loaded: Named
    device: torch.device
    plain_prompts: PlainPrompts | None = None
    min_picture_tokens: int = 1

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name

    @property
    def model_type(self) -> str:
        """The family."""
        return self.loaded.model_type

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Tokens that the model reads at most, those of pictures included; 0 if unknown."""

    @property
    @abstractmethod
    def control_tokens(self) -> re.Pattern[str]:
        """What the tokenizer would read as a control token, or the processor as the place of a picture."""

    def plain(self, text: str) -> str:
        """Return a text in which nothing is a control token: those that it spells are broken by a space."""
        return self.control_tokens.sub(lambda found: f"{found[0][:1]} {found[0][1:]}", text)

    def checked_question(self, question: str) -> str:
        """Return a question on one line, without control tokens.

        Raises:
            InvalidSetting: it is empty or not a str.
        """
        return self.plain(checked_question(question))

    def render(self, messages: list[Message], start: str = "") -> str:
        """Return a conversation as the chat template writes it, and the start of the answer.

        Raises:
            ModelError: the template can't be filled in.
        """
        try:
            text = self.apply_chat_template(messages)
        except Exception as error:  # a template raises what its author chose, and Jinja's own errors
            raise ModelError(f"{self.name}: its chat template fails ({error})") from error
        if start and starts_thinking(text):
            text = f"{text.rstrip()}\n\n{CLOSE}\n\n"
        return f"{text}{separator(text) if start else ''}{start}"

    @abstractmethod
    def apply_chat_template(self, messages: list[Message]) -> str:
        """Return a conversation as the chat template writes it, up to the answer; raises what the template raises."""

    @abstractmethod
    def encode(self, images: Sequence[Sequence[Image]], texts: Sequence[str]) -> Any:
        """Return the inputs for prompts, each with its pictures."""

    @abstractmethod
    def prompt_length(self, inputs: Any) -> int:
        """Return the number of tokens of the longest prompt, those of its pictures included."""

    @abstractmethod
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

    @abstractmethod
    def answer_log_probs(self, inputs: Any, prompt: str, answers: Sequence[str]) -> list[float]:
        """Return the log-probability of each answer to a single prompt, that of the end after it included."""


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
