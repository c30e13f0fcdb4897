"""A conversation with SmolVLM: its pictures are encoded once, and past turns stay in the KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from beholder.runtime.decoding import Decoding, DecodingSettings, stream
from beholder.tasks.chat_template_conversation import ChatTemplateConversation
from beholder.tasks.conversation import DecodedConversation, Turn, TurnWriter
from beholder.tasks.image_text_to_text import Encode
from beholder.tasks.smolvlm_generation import SmolVLMGenerator, SmolVLMInputs

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.runtime.decoding import KVCache


class SmolVLMConversation(ChatTemplateConversation, DecodedConversation):
    """A conversation of SmolVLM.

    Each turn is the whole conversation as the chat template writes it. The KV cache is kept as far as its tokens are
    those of the conversation, so an answer is the same as without it.

    Args:
        generator: the model.
        encode: returns the inputs for the pictures and a prompt.
        pictures: how many there are.
        settings: how answers are generated.
    """

    generator: SmolVLMGenerator

    def __init__(self, generator: SmolVLMGenerator, encode: Encode, pictures: int, settings: DecodingSettings):
        super().__init__(generator, pictures, generator.settings(settings))
        self.encode = encode
        self._inputs: SmolVLMInputs | None = None  # of the first prompt
        self._soft_prompts: Tensor | None = None
        self._ids: list[int] = []  # the conversation up to the answer
        self._kv_cache: KVCache | None = None
        self._cached: list[int] = []  # the tokens in the KV cache

    @property
    def _prompt_length(self) -> int:
        return len(self._ids)

    def _add_answer(self, turn: Turn) -> None:
        turn.answer_ids = self.generator.processor.encode_text(self.generator.plain(turn.answer))

    def _forget(self) -> None:
        """Keep the cache: `_prefill` compares its tokens with those of the conversation."""

    def _read(self, turns: list[Turn]) -> None:
        prompt = self.generator.render(self._messages(turns))
        if self._inputs is None:
            self._inputs = self.encode(prompt)
            self._ids = self._inputs.ids[0]
        else:
            self._ids = self.generator.encode_prompt(prompt, self._inputs.grids[0])

    def _generate(self, turn: Turn) -> Iterator[str]:
        self._truncate()
        generator = self.generator
        before = [*self._ids, *turn.answer_ids]
        generated = 0
        logits, kv_cache = self._prefill(before)
        writer = TurnWriter(turn, self._decode)
        try:
            for token in stream(generator.language, logits, kv_cache, self.settings):
                generated += 1
                piece = writer.add(token)
                if piece is not None:
                    yield piece
        finally:
            turn.answer = turn.answer.strip()
            # The last token has not been read yet.
            self._cached = [*before, *turn.answer_ids[len(turn.answer_ids) - generated :]][: kv_cache.mask.shape[1]]
            self._kv_cache = kv_cache
        turn.finished = generated < self.settings.max_new_tokens

    def read_pictures(self, on_part: Callable[[], None]) -> None:  # noqa: D102
        self._pictures(on_part)

    def start_answer(self, on_text: Callable[[str], None]) -> Decoding[Turn]:  # noqa: D102
        self._truncate()
        turn = self.turns[-1]
        logits, kv_cache = self._prefill([*self._ids, *turn.answer_ids])
        self._cached = []  # the cache belongs to the batch now; a further question reads the conversation again
        writer = TurnWriter(turn, self._decode)
        return self._answer(writer, self.generator.language, logits, kv_cache, on_text)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.generator.processor.decode(ids).lstrip()

    def _prefill(self, ids: Sequence[int]) -> tuple[Tensor, KVCache]:
        """Bring the KV cache to these tokens; return the logits of the next one (1, V), and the cache."""
        import torch

        generator = self.generator
        kept = common_prefix(self._cached, ids[:-1])
        kv_cache, self._kv_cache = self._kv_cache, None  # an exception leaves none
        with torch.inference_mode():
            if kv_cache is None or generator.processor.image_token_id in ids[kept:]:
                return generator.language.prefill(*generator.embed([ids], self._pictures()))
            kv_cache.crop(kept)
            rest = torch.tensor([ids[kept:]], device=generator.device)
            return generator.language.decode(rest, kv_cache), kv_cache

    def _pictures(self, on_part: Callable[[], None] = lambda: None) -> Tensor:
        """Return the soft prompts of the pictures (n, D); ``on_part`` is called before each part is computed."""
        if self._soft_prompts is None:
            if self._inputs is None:
                raise RuntimeError("a prompt is read before it is answered")
            self._soft_prompts = self.generator.soft_prompts(self._inputs.tiles[0], on_part)
        return self._soft_prompts


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    return next(
        (place for place, (left, right) in enumerate(zip(first, second, strict=False)) if left != right),
        min(len(first), len(second)),
    )
