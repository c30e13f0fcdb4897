"""Text generation by a vision-language model of transformers: prompts to inputs, inputs to texts."""

from __future__ import annotations

import inspect
import queue
import re
import threading
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from beholder.runtime.decoding import DecodingSettings
from beholder.runtime.precision import Precision
from beholder.tasks.image_text_to_text import (
    THINKING_TOKENS,
    Generated,
    ImageTextToTextGenerator,
    Message,
    separator,
)
from beholder.tasks.thinking import without_thinking
from beholder.weights.image_text_to_text import LoadedImageTextToText, chat_template
from beholder.weights.quiet_transformers import quiet_transformers

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class TransformersGenerator(ImageTextToTextGenerator):
    """A vision-language model of transformers with its processor and chat template.

    Args:
        loaded: the network and its processor.
        device: where to run; by default the fastest available.
        precision: computes in bfloat16 unless ``"exact"``, where that is faster.

    Attributes:
        cache_is_faithful: whether the KV cache of a turn, continued, gives the logits of the whole conversation; None
            until a conversation has found out.
    """

    def __init__(self, loaded: LoadedImageTextToText, device: str | None, precision: Precision = "exact"):
        import torch

        from beholder.runtime.device import bfloat16_is_faster, select_device

        self.loaded: LoadedImageTextToText = loaded
        self.plain_prompts = loaded.plain_prompts
        self.device = select_device(device)
        dtype = torch.bfloat16 if precision != "exact" and bfloat16_is_faster(self.device) else torch.float32
        self.module = loaded.module.to(self.device, dtype)
        self.tokenizer = loaded.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.cache_is_faithful: bool | None = None
        for part in (self.module, getattr(self.module, "language_model", None)):
            config = getattr(part, "generation_config", None)
            if config is not None and config.pad_token_id is None:
                config.pad_token_id = self.tokenizer.pad_token_id
        parameters = inspect.signature(self.module.forward).parameters
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"  # renamed by transformers 5.24

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at most, those of the picture included; 0 if unknown."""
        return int(getattr(self.module.config.get_text_config(), "max_position_embeddings", 0) or 0)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        module = self.module
        configs = [module.generation_config, module.config, module.config.get_text_config()]
        found = next((value for each in configs if (value := getattr(each, "eos_token_id", None)) is not None), None)
        if found is None:
            found = self.tokenizer.eos_token_id
        ends = tuple(found) if isinstance(found, list | tuple) else () if found is None else (int(found),)
        separator = getattr(module.config.get_text_config(), "sep_token_id", None)  # ends BLIP's texts
        return ends if separator is None or separator in ends else (*ends, int(separator))

    @cached_property
    def control_tokens(self) -> re.Pattern[str]:
        """What the tokenizer would read as a control token, or the processor as the place of a picture."""
        found = {str(token) for token in self.tokenizer.all_special_tokens}
        found |= {str(token) for token in self.tokenizer.get_added_vocab()}
        found |= {str(getattr(self.loaded.processor, name, "")) for name in ("image_token", "video_token", "boi_token")}
        return re.compile("|".join(re.escape(token) for token in sorted(found, key=len, reverse=True) if token) or "$^")

    def apply_chat_template(self, messages: list[Message]) -> str:
        """Return a conversation as the chat template writes it, up to the answer; raises what the template raises."""
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=chat_template(self.loaded.processor),
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=False,
            )
        )

    def encode(self, images: Sequence[Sequence[Image]], texts: Sequence[str]) -> Any:
        """Return the network's inputs for prompts, each with its pictures; raises what the processor raises."""
        nested: list[Any] = [list(each) for each in images]
        if self.loaded.plain_prompts is not None:
            nested = [image for each in images for image in each]
        tokenizer_adds = self.loaded.plain_prompts is not None or not str(texts[0]).startswith(
            self.tokenizer.bos_token or "\0"
        )
        options: dict[str, Any] = {} if tokenizer_adds else {"add_special_tokens": False}
        with quiet_transformers():
            inputs = self.loaded.processor(
                images=nested, text=list(texts), return_tensors="pt", padding=True, **options
            )
        inputs.pop("labels", None)  # PaliGemma's, for training
        return inputs.to(self.device, self.module.dtype)  # only floating-point tensors change their type

    def prompt_length(self, inputs: Any) -> int:
        """Return the number of tokens of the longest prompt."""
        return int(inputs["input_ids"].shape[1])

    def generate(
        self,
        inputs: Any,
        settings: DecodingSettings,
        *,
        count: int = 1,
        thinking: bool = False,
        on_token: Callable[[], None] | None = None,
    ) -> list[list[Generated]]:
        """Generate ``count`` texts for each row; see `ImageTextToTextGenerator.generate`."""
        import torch

        steps = Steps(settings, on_token)
        beams = max(settings.num_beams, count if settings.top_p is None else 1)
        output = self._run(inputs, settings, steps, thinking, num_beams=beams, num_return_sequences=count)
        rows = output.sequences[:, steps.start :].tolist()
        if beams > 1:
            lengths = [self._length(row) for row in rows]
            scores = [
                float(score) * length**settings.length_penalty
                for score, length in zip(output.sequences_scores.tolist(), lengths, strict=True)
            ]
        else:
            scores = self._log_probs(rows, torch.stack(output.logits, 1))
        found = [self.generated(row, score, thinking) for row, score in zip(rows, scores, strict=True)]
        return [found[start : start + count] for start in range(0, len(found), count)]

    def stream(
        self,
        inputs: Any,
        settings: DecodingSettings,
        on_end: Callable[[Any], None],
        *,
        cache: Any = None,
        thinking: bool = False,
    ) -> Generator[int, None, None]:
        """Yield the tokens of a single row as they are generated.

        Closing the generator ends generation after the token that is being generated.

        Args:
            inputs: of `encode`, or all tokens so far if the first of them are cached.
            settings: how to decode.
            on_end: called with the KV cache at the end, also when the generator is closed. Its last tokens may not
                have been yielded then.
            cache: of the first tokens.
            thinking: the prompt makes the model think first.
        """
        tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()
        found: list[Any] = []

        def run() -> None:
            try:
                cached = {} if cache is None else {self.cache_name: cache}
                streamer = TokenStreamer(tokens.put)
                steps = Steps(settings, None)
                output = self._run(
                    {**inputs, **cached},
                    settings,
                    steps,
                    thinking,
                    streamer=streamer,
                    stopping_criteria=[StopWhenSet(stopped)],
                )
                found.append(getattr(output, "cache", None) or getattr(output, "past_key_values", None))
                tokens.put(None)
            except BaseException as error:  # raised where the tokens are read
                tokens.put(error)

        thread = threading.Thread(target=run, name="beholder-generate", daemon=True)
        thread.start()
        try:
            while (token := tokens.get()) is not None:
                if isinstance(token, BaseException):
                    raise token
                if token in self.eos_token_ids:
                    continue
                yield token
        finally:
            stopped.set()
            thread.join()
            on_end(found[0] if found else None)

    def continued(self, inputs: Any, ids: list[int]) -> dict[str, Any]:
        """Return the inputs for all tokens so far, the picture among which is cached."""
        import torch

        tokens = torch.tensor([ids], device=self.device)
        longer = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        for key, value in inputs.items():
            if key.endswith("token_type_ids"):
                longer[key] = torch.nn.functional.pad(value[:, : len(ids)], (0, max(0, len(ids) - value.shape[1])))
        return longer

    def spell(self, prompt_ids: list[int], ids: list[int]) -> str:
        """Return the text that tokens after a prompt add to it, special tokens included."""
        before = prompt_ids[-4:]  # decoded by itself, a first word may lose the space before it
        whole: str = self.tokenizer.decode([*before, *ids], skip_special_tokens=False)
        return whole.removeprefix(self.tokenizer.decode(before, skip_special_tokens=False))

    def state(self) -> Any:
        """Return what the network remembers of the last picture beside its KV cache: Qwen's offset of positions."""
        return getattr(getattr(self.module, "model", None), "rope_deltas", None)

    def restore(self, state: Any) -> None:
        """Put back what `state` returned, since other pictures may have been seen in between."""
        if state is not None:
            self.module.model.rope_deltas = state

    def first_logits(self, inputs: Any, cache: Any = None) -> Tensor:
        """Return the logits (V,) of the token after a prompt, or after all tokens of which the first are cached."""
        steps = Steps(DecodingSettings(1), None)
        cached = {} if cache is None else {self.cache_name: cache}
        output = self._run({**inputs, **cached}, DecodingSettings(1), steps, False)
        logits: Tensor = output.logits[0][0].float()
        return logits

    def _run(self, inputs: Any, settings: DecodingSettings, steps: Steps, thinking: bool, **options: Any) -> Any:
        import torch

        sampling = {"top_p": settings.top_p, "temperature": settings.temperature, "top_k": 0} if settings.top_p else {}
        with torch.inference_mode(), quiet_transformers(), torch.random.fork_rng(enabled=bool(sampling)):
            if sampling:
                torch.manual_seed(settings.seed)
            return self.module.generate(
                **inputs,
                **{
                    "max_new_tokens": self.budget(settings, thinking),
                    "num_beams": settings.num_beams,
                    "do_sample": bool(sampling),
                    "length_penalty": settings.length_penalty,
                    "repetition_penalty": 1.0,
                    "no_repeat_ngram_size": 0,
                    "logits_processor": [steps],
                    "return_dict_in_generate": True,
                    "output_logits": True,
                    "output_scores": True,
                    **sampling,
                    **options,
                },
            )

    def budget(self, settings: DecodingSettings, thinking: bool) -> int:
        """Return how many tokens may be generated, those of a thought included."""
        return settings.max_new_tokens + (THINKING_TOKENS if thinking else 0)

    def generated(self, row: Sequence[int], log_prob: float, thinking: bool) -> Generated:
        """Return a row of generated tokens as a text."""
        length = self._length(row)
        finished = bool(length) and row[length - 1] in self.eos_token_ids
        ids = list(row[: length - finished])
        return Generated(ids, self.decode(ids, thinking), log_prob, finished)

    def decode(self, ids: Sequence[int], thinking: bool = False) -> str:
        """Return the text of tokens, without special tokens and without what the model thought before it."""
        with_tags = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        if without_thinking(with_tags, thinking) == with_tags:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
        return self.control_tokens.sub("", without_thinking(with_tags, thinking)).strip()

    def _length(self, row: Sequence[int]) -> int:
        """Return the number of tokens up to the first that ends the text, that one included."""
        ends = [row.index(end) + 1 for end in self.eos_token_ids if end in row]
        if ends:
            return min(ends)
        padding = self.tokenizer.pad_token_id
        length = len(row)
        while length and row[length - 1] == padding:
            length -= 1
        return length

    def _log_probs(self, rows: list[list[int]], logits: Tensor) -> list[float]:
        """Return the log-probability of each row's tokens; logits (n, T, V)."""
        import torch

        log_probs = logits.float().log_softmax(-1)
        found = []
        for row, each in zip(rows, log_probs, strict=True):
            length = self._length(row)
            tokens = torch.tensor(row[:length], dtype=torch.long, device=each.device)
            found.append(float(each[:length].gather(1, tokens[:, None]).sum()))
        return found

    def answer_log_probs(self, inputs: Any, prompt: str, answers: Sequence[str]) -> list[float]:
        """Return the log-probability of each answer and of the end after it."""
        return [self._answer_log_prob(inputs, prompt, answer) for answer in answers]

    def _answer_log_prob(self, inputs: Any, prompt: str, answer: str) -> float:
        import torch

        ids = self.tokenizer(f"{separator(prompt)}{self.plain(answer)}", add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[*ids, *self.eos_token_ids[:1]]], device=self.device)
        with torch.inference_mode(), quiet_transformers():
            if self.module.config.is_encoder_decoder or self.module.config.get_text_config().is_encoder_decoder:
                logits = self.module(**inputs, labels=tokens).logits[0, -tokens.shape[1] :]
            else:
                longer = self.extend(inputs, tokens)
                logits = self.module(**longer).logits[0, -tokens.shape[1] - 1 : -1]
        return float(logits.float().log_softmax(-1).gather(1, tokens.T).sum())

    def extend(self, inputs: Any, tokens: Tensor) -> dict[str, Any]:
        """Return inputs whose prompt is followed by tokens (1, T) of an answer."""
        import torch

        length = inputs["input_ids"].shape[1]
        plain = self.loaded.plain_prompts
        fill = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        kind = torch.full_like(tokens, plain.answer_token_type if plain is not None else 0)
        longer = dict(inputs)
        for key, value in inputs.items():
            if key in fill or (key.endswith("token_type_ids") and value.shape[-1] == length):
                longer[key] = torch.cat([value, fill.get(key, kind).to(value.dtype)], 1)
        return longer


class TokenStreamer:
    """Hands on the tokens that transformers' generate chooses, but not those of the prompt."""

    def __init__(self, on_token: Callable[[int], None]):
        self.on_token = on_token
        self.prompt_is_read = False

    def put(self, value: Tensor) -> None:
        """Take the prompt (1, T), then each token (1,)."""
        if self.prompt_is_read:
            self.on_token(int(value.reshape(-1)[-1]))
        self.prompt_is_read = True

    def end(self) -> None:
        """Do nothing at the end of the text."""


class StopWhenSet:
    """A stopping criterion: an event that another thread sets."""

    def __init__(self, event: threading.Event):
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Any) -> Tensor:
        """Return for each row whether it ends."""
        import torch

        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


class Steps:
    """A logits processor that counts the prompt's tokens, and applies to generated ones what penalizes repetition.

    Attributes:
        start: the number of tokens of the sequence before the first generated one.
    """

    def __init__(self, settings: DecodingSettings, on_token: Callable[[], None] | None):
        from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

        self.start: int = -1
        self.on_token = on_token
        self.processors: list[Any] = []
        if settings.repetition_penalty != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if settings.no_repeat_ngram_size:
            self.processors.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the processed scores of the next token (n, V), given all tokens so far (n, T)."""
        if self.on_token is not None:
            self.on_token()
        if self.start < 0:
            self.start = input_ids.shape[1]
        for process in self.processors:
            if input_ids.shape[1] > self.start:
                scores = process(input_ids[:, self.start :], scores)
        return scores
