"""A conversation of a model that is prompted by its chat template."""

from __future__ import annotations

import warnings
from abc import abstractmethod

from beholder.errors import InvalidSetting
from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.conversation import Conversation, ConversationTruncatedWarning, Turn
from beholder.tasks.image_text_to_text import ImageTextToTextGenerator, Message, check_length, user_message


class ChatTemplateConversation(Conversation):
    """The turns of a conversation as messages; the pictures belong to the first one.

    Args:
        generator: the model.
        pictures: how many there are.
        settings: how answers are generated.
    """

    def __init__(self, generator: ImageTextToTextGenerator, pictures: int, settings: DecodingSettings):
        super().__init__()
        self.generator = generator
        self.pictures = pictures
        self.settings = settings

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at most; 0 if unknown."""
        return self.generator.context_length

    @property
    def num_tokens(self) -> int:
        """Tokens in the model's context, those of the pictures and of the last answer included."""
        generated = len(self.context_turns[-1].answer_ids) if self.context_turns else 0
        return self._prompt_length + generated if self._prompt_length else 0

    def add_question(self, question: str) -> Turn:
        """Append a question; errors as for `stream`."""
        self.generator.checked_question(question)
        turn = Turn(question)
        self.turns.append(turn)
        self.context_turns.append(turn)
        try:
            self._read(self.context_turns)
            if len(self.context_turns) == 1:
                check_length(self.generator, self._prompt_length, self.settings.max_new_tokens, self.pictures)
        except Exception:
            self.turns.pop()
            self.context_turns.pop()
            self._forget()
            raise
        return turn

    def _messages(self, turns: list[Turn]) -> list[Message]:
        messages: list[Message] = []
        for number, turn in enumerate(turns):
            question = self.generator.checked_question(turn.question)
            messages.append(user_message(question, pictures=0 if number else self.pictures))
            if number + 1 < len(turns):
                answer = self.generator.plain(turn.answer)
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return messages

    def _truncate(self) -> None:
        """Drop the oldest turns if the rest would not fit into the context, and warn."""
        context = self.context_length
        dropped = 0
        while context and len(self.context_turns) > 1 and self.num_tokens + self.settings.max_new_tokens > context:
            self.context_turns.pop(0)
            dropped += 1
            self._forget()
            self._read(self.context_turns)
        if context and self.num_tokens + self.settings.max_new_tokens > context:
            raise InvalidSetting(f"the model's context of {context} tokens is full; start a new conversation")
        if dropped:
            turns = "turn was" if dropped == 1 else f"{dropped} turns were"
            warnings.warn(
                f"the conversation exceeds the model's context of {context} tokens; the oldest {turns} dropped",
                ConversationTruncatedWarning,
                stacklevel=3,
            )

    @property
    @abstractmethod
    def _prompt_length(self) -> int:
        """Tokens before the last answer; 0 if nothing has been read."""

    @abstractmethod
    def _read(self, turns: list[Turn]) -> None:
        """Make the prompt of the next answer from the turns, of which the last has none yet."""

    @abstractmethod
    def _forget(self) -> None:
        """Read the next prompt from its beginning if the model needs that."""
