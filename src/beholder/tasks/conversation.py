"""A conversation about one picture: its turns, and what every kind of model does with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beholder.errors import InvalidSetting

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.runtime.decoding import Decoding, DecodingSettings, KVCache, Language


class ConversationTruncatedWarning(UserWarning):
    """The conversation exceeded the model's context, so its oldest turns were dropped."""


@dataclass
class Turn:
    """A question and its answer, with their tokens where the model has any."""

    question: str
    question_ids: list[int] = field(default_factory=list)
    answer_ids: list[int] = field(default_factory=list)
    answer: str = ""
    finished: bool = False


class Conversation(ABC):
    """A multi-turn conversation, created by `VisionLanguageModel.chat`.

    Attributes:
        turns: all turns so far.
        context_turns: the turns that the model still reads.
    """

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.context_turns: list[Turn] = []

    @property
    def history(self) -> list[tuple[str, str]]:
        """All questions and answers so far."""
        return [(turn.question, turn.answer) for turn in self.turns]

    def ask(self, question: str) -> str:
        """Return the answer to the next question; errors as for `stream`."""
        for _ in self.stream(question):
            pass
        return self.turns[-1].answer

    def stream(self, question: str) -> Iterator[str]:
        """Return the answer piece by piece.

        Closing the iterator stops generation; `continue_answer` resumes it.

        Raises:
            InvalidSetting: the question is empty, or too long by itself.
        """
        turn = self.add_question(question)
        return iter([turn.answer]) if turn.finished else self._generate(turn)  # a notice is an answer already

    def add_turn(self, question: str, answer: str) -> None:
        """Append a turn that was generated elsewhere, such as before a restart.

        Raises:
            InvalidSetting: the question is empty, or too long by itself.
        """
        if not isinstance(answer, str):
            raise InvalidSetting(f"the answer must be a str, not {type(answer).__name__}")
        turn = self.add_question(question)
        is_notice = turn.finished  # which the model does not read
        turn.answer, turn.finished = answer, True
        if not is_notice:
            self._add_answer(turn)

    def continue_answer(self) -> Iterator[str]:
        """Return more of the last answer, which was stopped or reached its maximum length.

        Raises:
            InvalidSetting: there is no question yet, or the answer is complete.
        """
        if not self.turns or self.turns[-1].finished:
            raise InvalidSetting("there is no unfinished answer to continue")
        return self._generate(self.turns[-1])

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Tokens that the model reads at most; 0 if unlimited or unknown."""

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """Tokens in the model's context, those of the picture and of the last answer included; 0 if unknown."""

    @abstractmethod
    def add_question(self, question: str) -> Turn:
        """Append a question, which `continue_answer` then answers; errors as for `stream`.

        A question that the model can't read is answered by a notice, and kept from the model: its turn is finished.
        """

    @abstractmethod
    def _add_answer(self, turn: Turn) -> None:
        """Let the model read the answer of a turn that was generated elsewhere."""

    @abstractmethod
    def _generate(self, turn: Turn) -> Iterator[str]:
        """Generate more of the answer of the last turn, piece by piece, and add it to the turn."""


class TurnWriter:
    """Adds tokens to the answer of a turn.

    Args:
        turn: to which they are added.
        decode: returns the text of tokens.
    """

    def __init__(self, turn: Turn, decode: Callable[[Sequence[int]], str]):
        self.turn = turn
        self.decode = decode
        self.shown = turn.answer

    def add(self, token: int) -> str | None:
        """Return the new text; None while a character of several tokens is incomplete."""
        turn = self.turn
        turn.answer_ids.append(token)
        turn.answer = self.decode(turn.answer_ids)
        if turn.answer.endswith("\N{REPLACEMENT CHARACTER}") or not turn.answer.startswith(self.shown):
            return None
        piece, self.shown = turn.answer[len(self.shown) :], turn.answer
        return piece


class DecodedConversation(Conversation):
    """A conversation whose answers are decoded here, so that they can be decoded together with other texts.

    Attributes:
        settings: how answers are generated.
    """

    settings: DecodingSettings

    @abstractmethod
    def read_pictures(self, on_part: Callable[[], None]) -> None:
        """Encode the pictures, unless they have been; ``on_part`` is called before each part and may raise to abort."""

    @abstractmethod
    def start_answer(self, on_text: Callable[[str], None]) -> Decoding[Turn]:
        """Read the conversation; return the steps that answer the last question, to be decoded with other texts.

        Args:
            on_text: called with each piece of the answer.
        """

    def _answer(
        self,
        writer: TurnWriter,
        language: Language,
        logits: Tensor,
        kv_cache: KVCache,
        on_text: Callable[[str], None],
    ) -> Decoding[Turn]:
        """Return the steps that answer the turn of a writer.

        Args:
            writer: of the answer.
            language: the language model.
            logits: of the answer's next token (1, V).
            kv_cache: what the model has read.
            on_text: called with each piece of the answer.
        """
        from beholder.runtime.decoding import Decoding, sampling_steps, tokens_of

        def on_token(token: int) -> None:
            piece = writer.add(token)
            if piece is not None:
                on_text(piece)

        def finish(ids: list[int]) -> Turn:
            turn = writer.turn
            turn.answer = turn.answer.strip()
            turn.finished = len(ids) < self.settings.max_new_tokens
            return turn

        return Decoding(kv_cache, tokens_of(sampling_steps(language, logits, self.settings), on_token)).map(finish)
