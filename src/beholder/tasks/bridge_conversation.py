"""A conversation about a picture that is encoded once; past turns stay in the language model's KV cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from beholder.errors import InvalidSetting
from beholder.runtime.decoding import Decoding, DecodingSettings, Language, stream
from beholder.tasks.conversation import ConversationTruncatedWarning, DecodedConversation, Turn, TurnWriter
from beholder.tasks.text_codec import TextCodec, append_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.runtime.decoding import KVCache


class BridgeConversation(DecodedConversation):
    """A conversation of a model with a bridge.

    Args:
        language: the language model.
        codec: of the language model.
        encode_picture: returns the picture's soft prompts (1, Q, D); called once.
        settings: how answers are generated.
    """

    def __init__(
        self, language: Language, codec: TextCodec, encode_picture: Callable[[], Tensor], settings: DecodingSettings
    ):
        super().__init__()
        self.language = language
        self.codec = codec
        self.encode_picture = encode_picture
        self.settings = settings
        self._kv_cache: KVCache | None = None
        self._uncached: list[int] = []  # tokens of the conversation that are not in the KV cache yet

    @cached_property
    def prompts(self) -> Tensor:
        """The picture's soft prompts (1, Q, D)."""
        return self.encode_picture()

    @property
    def context_length(self) -> int:
        """Tokens and soft prompts that the language model reads at most; 0 if unlimited."""
        return self.codec.context_length

    @property
    def num_tokens(self) -> int:
        """Soft prompts and tokens in the model's context, those of the last answer included."""
        tokens = sum(len(turn.question_ids) + len(turn.answer_ids) for turn in self.context_turns)
        return self.codec.soft_prompts + tokens

    def read_pictures(self, on_part: Callable[[], None]) -> None:  # noqa: D102
        on_part()
        _ = self.prompts

    def start_answer(self, on_text: Callable[[str], None]) -> Decoding[Turn]:  # noqa: D102
        self._truncate()
        logits, kv_cache = self._prefill()
        self._kv_cache = None  # it belongs to the batch now; a further question reads the conversation again
        writer = TurnWriter(self.turns[-1], self.codec.decode)
        return self._answer(writer, self.language, logits, kv_cache, on_text)

    def add_question(self, question: str) -> Turn:
        """Append a question, which `continue_answer` or `start_answer` then answers; errors as for `stream`.

        A question that the model can't read is answered by a notice, and kept from the model: its turn is finished.
        """
        prompt = self.codec.prompts.format_question(question)
        if notice := self.codec.prompts.language_notice(question):
            self.turns.append(Turn(question, answer=notice, finished=True))
            return self.turns[-1]
        first = not self.context_turns
        ids = self.codec.encode(prompt if first else self.codec.prompts.separator + prompt, special=first)
        context = self.codec.context_length
        if context and self.codec.soft_prompts + len(ids) + self.settings.max_new_tokens > context:
            raise InvalidSetting(f"the question has {len(ids)} tokens; the language model reads {context} in all")
        turn = Turn(question, ids)
        self.turns.append(turn)
        self.context_turns.append(turn)
        self._uncached += ids
        return turn

    def _add_answer(self, turn: Turn) -> None:
        turn.answer_ids = self.codec.encode(f" {self.codec.prompts.uncapitalize(turn.answer)}")
        self._uncached += turn.answer_ids

    def _generate(self, turn: Turn) -> Iterator[str]:
        self._truncate()
        logits, kv_cache = self._prefill()
        writer = TurnWriter(turn, self.codec.decode)
        count = 0
        for token in stream(self.language, logits, kv_cache, self.settings):
            self._uncached = [token]  # enters the cache before the next token
            count += 1
            piece = writer.add(token)
            if piece is not None:
                yield piece
        turn.finished = count < self.settings.max_new_tokens
        if turn.finished:
            self._uncached = []

    def _prefill(self) -> tuple[Tensor, KVCache]:
        """Bring the KV cache up to date; return the logits of the next token (1, V), and the cache."""
        import torch

        language, device = self.language, self.prompts.device
        with torch.inference_mode():
            if self._kv_cache is None or language.encoder_decoder:
                ids = [token for turn in self.context_turns for token in (*turn.question_ids, *turn.answer_ids)]
                answer_ids = self.context_turns[-1].answer_ids
                if language.encoder_decoder:  # the last answer goes to the decoder, everything before it to the encoder
                    ids = ids[: len(ids) - len(answer_ids)]
                embeddings = append_tokens(language, self.prompts, ids)
                mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=device)
                logits, self._kv_cache = language.prefill(embeddings, mask)
                if language.encoder_decoder and answer_ids:
                    logits = language.decode(torch.tensor([answer_ids], device=device), self._kv_cache)
            else:
                logits = language.decode(torch.tensor([self._uncached], device=device), self._kv_cache)
            self._uncached = []
        return logits, self._kv_cache

    def _truncate(self) -> None:
        """Drop the oldest turns if the rest would not fit into the context, and warn."""
        context = self.codec.context_length
        dropped = 0
        while context and len(self.context_turns) > 1 and self.num_tokens + self.settings.max_new_tokens > context:
            self.context_turns.pop(0)
            dropped += 1
            first = self.context_turns[0]
            first.question_ids = self.codec.encode(self.codec.prompts.format_question(first.question), special=True)
        if dropped:
            self._kv_cache = None
            turns = "turn was" if dropped == 1 else f"{dropped} turns were"
            warnings.warn(
                f"the conversation exceeds the model's context of {context} tokens; the oldest {turns} dropped",
                ConversationTruncatedWarning,
                stacklevel=3,
            )
