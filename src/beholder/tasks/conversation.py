"""A conversation about one picture, which is looked at once; what was read stays in the language model's memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beholder.errors import InvalidSetting
from beholder.runtime.decoding import DecodingSettings, stream

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.models.language_model import KVCache
    from beholder.tasks.vision_language import VisionLanguageModel


class ConversationTruncatedWarning(UserWarning):
    """The conversation became longer than the model reads, and its oldest turns were left out."""


@dataclass
class Turn:
    """A question and its answer, with the tokens that the model read and wrote for them."""

    question: str
    question_ids: list[int]
    answer_ids: list[int] = field(default_factory=list)
    answer: str = ""
    finished: bool = False


class Conversation:
    """Made by `VisionLanguageModel.chat`.

    Args:
        model: whose words they are.
        prompts: the picture's soft prompts (1, Q, D).
        settings: how answers are written.
    """

    def __init__(self, model: VisionLanguageModel, prompts: Tensor, settings: DecodingSettings):
        self.model = model
        self.prompts = prompts
        self.settings = settings
        self.turns: list[Turn] = []
        self.remembered: list[Turn] = []  # those that the model still reads
        self._kv_cache: KVCache | None = None
        self._unread: list[int] = []  # tokens of the conversation that the memory does not hold yet

    @property
    def history(self) -> list[tuple[str, str]]:
        """All questions and answers so far."""
        return [(turn.question, turn.answer) for turn in self.turns]

    def ask(self, question: str) -> str:
        """The answer to the next question; the errors are those of `stream`."""
        for _ in self.stream(question):
            pass
        return self.turns[-1].answer

    def stream(self, question: str) -> Iterator[str]:
        """The answer piece by piece. Who stops reading stops the writing; `go_on` takes it up again.

        Raises:
            InvalidSetting: the question is empty, or too long by itself.
        """
        return self._write(self._add(question))

    def add_turn(self, question: str, answer: str) -> None:
        """Puts a turn that was spoken elsewhere, such as the one before a restart, into the conversation.

        Raises:
            InvalidSetting: the question is empty, or too long by itself.
        """
        turn = self._add(question)
        turn.answer, turn.finished = answer, True
        turn.answer_ids = self.model._encode(f" {self.model.loaded.prompts.uncapitalize(answer)}", special=False)
        self._unread += turn.answer_ids

    @property
    def num_tokens(self) -> int:
        """The soft prompts and tokens that the model reads before its next word, the words of the last answer among
        them."""
        return self._held()

    def _add(self, question: str) -> Turn:
        prompts = self.model.loaded.prompts
        asked = prompts.format_question(question)
        first = not self.remembered
        ids = self.model._encode(asked if first else prompts.separator + asked, special=first)
        room = self._room()
        if room and self._fixed() + len(ids) > room:
            raise InvalidSetting(f"the question has {len(ids)} tokens; the language model reads {room} in all")
        turn = Turn(question, ids)
        self.turns.append(turn)
        self.remembered.append(turn)
        self._unread += ids
        return turn

    def continue_answer(self) -> Iterator[str]:
        """More of the last answer, where it was stopped or had reached its longest.

        Raises:
            InvalidSetting: nothing was asked yet, or the answer had come to its end.
        """
        if not self.turns or self.turns[-1].finished:
            raise InvalidSetting("there is no unfinished answer to go on with")
        return self._write(self.turns[-1])

    def _write(self, turn: Turn) -> Iterator[str]:
        self._forget()
        logits, kv_cache = self._read()
        shown = turn.answer
        count = 0
        for token in stream(self.model.language, logits, kv_cache, self.settings):
            turn.answer_ids.append(token)
            self._unread = [token]  # the memory takes it in before the next one
            count += 1
            turn.answer = self.model._decode(turn.answer_ids)
            if not turn.answer.endswith("�"):  # half of a character
                yield turn.answer[len(shown) :]
                shown = turn.answer
        turn.finished = count < self.settings.max_new_tokens
        if turn.finished:
            self._unread = []

    def _read(self) -> tuple[Tensor, KVCache]:
        """Has the memory take in what it does not hold; the logits of the next word (1, V), and the memory."""
        import torch

        language = self.model.language
        with torch.inference_mode():
            if self._kv_cache is None or language.encoder_decoder:
                ids = [token for turn in self.remembered for token in (*turn.question_ids, *turn.answer_ids)]
                if language.encoder_decoder:  # the last answer is the decoder's, what was before it the encoder's
                    ids = ids[: len(ids) - len(self.remembered[-1].answer_ids)]
                embeddings = self.model._with_text(self.prompts, ids)
                mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.model.device)
                logits, self._kv_cache = language.prefill(embeddings, mask)
                self._unread = []
                said = self.remembered[-1].answer_ids
                if language.encoder_decoder and said:
                    logits = language.decode(torch.tensor([said], device=self.model.device), self._kv_cache)
            else:
                logits = language.decode(torch.tensor([self._unread], device=self.model.device), self._kv_cache)
                self._unread = []
        return logits, self._kv_cache

    def _forget(self) -> None:
        """Leaves out the oldest turns where the rest would not fit, and says so."""
        room = self._room()
        forgotten = 0
        while room and len(self.remembered) > 1 and self._held() + self.settings.max_new_tokens > room:
            self.remembered.pop(0)
            forgotten += 1
            first = self.remembered[0]
            first.question_ids = self.model._encode(
                self.model.loaded.prompts.format_question(first.question), special=True
            )
        if forgotten:
            self._kv_cache = None
            turns = "turn was" if forgotten == 1 else f"{forgotten} turns were"
            warnings.warn(
                f"the conversation is longer than the {room} tokens that the model reads; the oldest {turns} left out",
                ConversationTruncatedWarning,
                stacklevel=3,
            )

    def _room(self) -> int:
        return self.model.language.context_length

    def _fixed(self) -> int:
        return int(self.prompts.shape[1]) + self.settings.max_new_tokens

    def _held(self) -> int:
        return int(self.prompts.shape[1]) + sum(
            len(turn.question_ids) + len(turn.answer_ids) for turn in self.remembered
        )
