"""A conversation with a model of transformers: the picture and past turns stay in its KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.chat_template_conversation import ChatTemplateConversation
from beholder.tasks.conversation import Turn
from beholder.tasks.image_text_to_text import Encode
from beholder.tasks.thinking import OPEN, starts_thinking, visible
from beholder.tasks.transformers_generation import TransformersGenerator

FAITHFUL_COSINE = 0.999  # of logits from a continued cache with those of the whole conversation


class TransformersConversation(ChatTemplateConversation):
    """A conversation of a model of transformers.

    A turn continues the KV cache of the turns before it. Whether a family's cache can be continued is tried once per
    model, on the first turn that would; if its logits are not those of the whole conversation, each turn reads all.

    Args:
        generator: the model.
        encode: returns the inputs for the pictures and a prompt.
        pictures: how many there are.
        settings: how answers are generated.
    """

    generator: TransformersGenerator

    def __init__(
        self, generator: TransformersGenerator, encode: Encode, pictures: int, settings: DecodingSettings
    ) -> None:
        super().__init__(generator, pictures, settings)
        self.encode = encode
        self._prompt = ""  # the conversation as the template writes it, up to the answer
        self._inputs: dict[str, Any] = {}  # all tokens of it, and the picture unless it is cached
        self._cache: Any = None
        self._state: Any = None  # what the network remembers beside its cache
        self._whole: dict[str, Any] = {}  # the inputs that were last read without the cache, the picture among them
        self._answered: tuple[str, str, list[int]] | None = None  # the last prompt, its answer, and all their tokens

    @property
    def _prompt_length(self) -> int:
        return int(self._inputs["input_ids"].shape[1]) if self._inputs else 0

    def _add_answer(self, turn: Turn) -> None:
        turn.answer_ids = self.generator.tokenizer(
            self.generator.plain(turn.answer), add_special_tokens=False
        ).input_ids
        self._forget()

    def _forget(self) -> None:
        self._cache, self._answered = None, None

    def _read(self, turns: list[Turn]) -> None:
        """Make the inputs for the next answer: after the cached tokens if the conversation begins with those."""
        generator = self.generator
        self._prompt = generator.render(self._messages(turns))
        if self._cache is not None and self._answered is not None and generator.cache_is_faithful is not False:
            prompt, answer, ids = self._answered
            rest = self._prompt.removeprefix(prompt).lstrip()
            if self._prompt.startswith(prompt) and rest.startswith(answer):
                new = generator.tokenizer(rest.removeprefix(answer), add_special_tokens=False).input_ids
                self._inputs = generator.continued(self._inputs, [*ids, *new])
                if self._check_cache():
                    return
        self._forget()
        self._whole = self._inputs = dict(self.encode(self._prompt))

    def _check_cache(self) -> bool:
        """Return whether the cache may be continued; the first time, by comparison with all tokens read at once."""
        import torch

        generator = self.generator
        if generator.cache_is_faithful is None:
            known = self._whole["input_ids"].shape[1]
            whole = generator.extend(self._whole, self._inputs["input_ids"][:, known:])
            try:
                generator.restore(self._state)
                found = generator.first_logits(self._inputs, deepcopy(self._cache))
            except Exception:  # a family that can't continue a cache raises errors of any type
                generator.cache_is_faithful = False
                return False
            expected = generator.first_logits(whole)
            cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
            generator.cache_is_faithful = bool(cosine > FAITHFUL_COSINE)
            generator.restore(self._state)
        return generator.cache_is_faithful

    def _generate(self, turn: Turn) -> Iterator[str]:
        self._truncate()
        generator = self.generator
        prompt_ids = self._inputs["input_ids"][0].tolist()
        inside = starts_thinking(self._prompt)
        if self._cache is not None:
            generator.restore(self._state)
        inputs = self._inputs
        if turn.answer_ids:  # it was stopped; its last token is read again
            self._crop(len(prompt_ids) + len(turn.answer_ids) - 1)
            prompt = self._prompt + generator.spell(prompt_ids, turn.answer_ids)
            if self._cache is None or generator.cache_is_faithful is False:
                self._cache, inputs = None, dict(self.encode(prompt))
            else:
                inputs = generator.continued(self._inputs, [*prompt_ids, *turn.answer_ids])
        before = len(turn.answer_ids)
        shown = turn.answer
        stream = generator.stream(inputs, self.settings, self._keep, cache=self._cache, thinking=inside)
        try:
            for token in stream:
                turn.answer_ids.append(token)
                text = visible(generator.tokenizer.decode(turn.answer_ids), inside)
                turn.answer = generator.control_tokens.sub("", text).lstrip()
                incomplete = turn.answer.endswith("\N{REPLACEMENT CHARACTER}")  # a character of several tokens
                if not incomplete and turn.answer.startswith(shown):
                    yield turn.answer[len(shown) :]
                    shown = turn.answer
        finally:
            stream.close()
            turn.answer = generator.decode(turn.answer_ids, inside)
            self._state = generator.state()
            ids = [*prompt_ids, *turn.answer_ids]
            thought = inside or OPEN in generator.tokenizer.decode(turn.answer_ids)
            # A template leaves thoughts out of past turns, so that the cache could not be continued.
            answer = generator.plain(turn.answer).strip()
            self._answered = None if thought else (self._prompt, answer, ids)
            self._crop(len(ids))
        turn.finished = len(turn.answer_ids) - before < generator.budget(self.settings, inside)

    def _keep(self, cache: Any) -> None:
        self._cache = cache

    def _crop(self, length: int) -> None:
        """Remove the tokens from the cache that were generated after the answer was stopped."""
        if self._cache is None:
            return
        try:
            if (extra := self._cache.get_seq_length() - length) > 0:
                self._cache.crop(-extra)
        except Exception:  # a cache that can't be cropped raises errors of any type
            self._cache = None
