"""Text generation by SmolVLM: prompts with pictures to soft prompts and tokens, and those to texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import ModelError
from beholder.pictures.tiles import to_tiles
from beholder.runtime.compiled_decoder import NETWORK
from beholder.runtime.compiled_smolvlm import CompiledSmolVLM
from beholder.runtime.decoding import (
    Decoding,
    DecodingSettings,
    GeneratedText,
    Language,
    run,
    sequence_log_probs,
    start_candidates,
    start_decoding,
)
from beholder.runtime.engine import NetworkConfig
from beholder.runtime.precision import Precision
from beholder.tasks.image_text_to_text import (
    THINKING_TOKENS,
    Generated,
    ImageTextToTextGenerator,
    Message,
    separator,
)
from beholder.tasks.thinking import without_thinking
from beholder.weights.smolvlm import LoadedSmolVLM

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from beholder.runtime.vision_front_end import VisionFrontEnd

TILES = 4  # that the vision tower reads at once; more take memory and save no time


@dataclass(frozen=True)
class SmolVLMInputs:
    """Prompts with their pictures.

    Attributes:
        ids: token ids of each prompt; some stand for soft prompts.
        grids: rows and columns of the tiles of each picture of each prompt.
        tiles: of all pictures of each prompt (n, 3, S, S).
    """

    ids: list[list[int]]
    grids: list[list[tuple[int, int]]]
    tiles: list[np.ndarray]


class SmolVLMGenerator(ImageTextToTextGenerator):
    """A SmolVLM, run by Beholder.

    Args:
        loaded: the networks and the processor, or their compiled form, which runs on the CPU.
        device: where to run; by default the fastest available.
        precision: as in `VisionLanguageModel`.
    """

    def __init__(self, loaded: LoadedSmolVLM | CompiledSmolVLM, device: str | None, precision: Precision = "exact"):
        import torch

        self.loaded: LoadedSmolVLM | CompiledSmolVLM = loaded
        self.processor = loaded.processor
        self.min_picture_tokens = self.processor.image_seq_len  # of a single tile, without those around it
        self.front_end: VisionFrontEnd
        self.language: Language
        if isinstance(loaded, CompiledSmolVLM):
            from beholder.runtime.execution_plan import execution_plan

            self.device = torch.device("cpu")
            plan = execution_plan(loaded, precision)
            self.front_end = plan.front_end(loaded)
            self.language = loaded.language_model(plan.language or NetworkConfig(NETWORK))
            return
        from beholder.runtime.device import bfloat16_is_faster, select_device
        from beholder.runtime.vision_front_end import TorchFrontEnd

        self.device = select_device(device)
        self.front_end = TorchFrontEnd(loaded.image, loaded.connector, self.device, precision)
        loaded.language.to(self.device)
        if precision != "exact" and bfloat16_is_faster(self.device):
            loaded.language.module.to(torch.bfloat16)
        self.language = loaded.language

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at most, those of pictures included; 0 if unknown."""
        return self.language.context_length

    @cached_property
    def control_tokens(self) -> re.Pattern[str]:
        """What the tokenizer would read as a control token."""
        return re.compile("|".join(map(re.escape, self.processor.control_tokens)))

    def apply_chat_template(self, messages: list[Message]) -> str:
        """Return a conversation as the chat template writes it, up to the answer; raises what the template raises."""
        return self.processor.render(messages)

    def encode(self, images: Sequence[Sequence[Image]], texts: Sequence[str]) -> SmolVLMInputs:
        """Return the inputs for prompts, each with its pictures.

        Raises:
            ModelError: the chat template has no place for a picture.
        """
        ids, grids, pixels = [], [], []
        for pictures, text in zip(images, texts, strict=True):
            tiles = [to_tiles(picture, self.processor.tiling) for picture in pictures]
            grids.append([(each.rows, each.columns) for each in tiles])
            ids.append(self.encode_prompt(text, grids[-1]))
            pixels.append(np.concatenate([each.pixels for each in tiles]))
        return SmolVLMInputs(ids, grids, pixels)

    def encode_prompt(self, prompt: str, grids: Sequence[tuple[int, int]]) -> list[int]:
        """Return the token ids of a prompt for pictures that are cut into these grids; errors as for `encode`."""
        try:
            return self.processor.encode(prompt, grids)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from None

    def prompt_length(self, inputs: SmolVLMInputs) -> int:
        """Return the number of tokens of the longest prompt, those of its pictures included."""
        return max(map(len, inputs.ids))

    def soft_prompts(self, tiles: np.ndarray, on_part: Callable[[], None] = lambda: None) -> Tensor:
        """Return the soft prompts of tiles, one after the other: (n, 3, S, S) → (n · P, D).

        Args:
            tiles: (n, 3, S, S).
            on_part: called before each few of them are computed; an exception aborts.
        """
        import torch

        parts = []
        for start in range(0, len(tiles), TILES):
            on_part()
            parts.append(self.front_end.prompts(self.front_end.tokens(tiles[start : start + TILES])))
        return torch.cat(parts).flatten(0, 1)

    def embed(self, rows: Sequence[Sequence[int]], soft_prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of prompts (B, T, D), padded on the left, and their mask (B, T).

        Args:
            rows: token ids.
            soft_prompts: of the pictures of all rows, in order (n, D).
        """
        import torch

        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, each in enumerate(rows):
            ids[row, longest - len(each) :] = torch.tensor(each)
            mask[row, longest - len(each) :] = True
        embeddings = self.language.embed(ids.to(self.device))
        places = ((ids == self.processor.image_token_id) & mask).to(self.device)
        embeddings[places] = soft_prompts.to(embeddings.dtype)
        return embeddings, mask.to(self.device)

    def read_pictures(self, inputs: SmolVLMInputs, on_part: Callable[[], None] = lambda: None) -> Tensor:
        """Return the soft prompts of the pictures of all prompts (n, D); ``on_part`` as for `soft_prompts`."""
        import torch

        return torch.cat([self.soft_prompts(tiles, on_part) for tiles in inputs.tiles])

    def generate(
        self,
        inputs: SmolVLMInputs,
        settings: DecodingSettings,
        *,
        count: int = 1,
        thinking: bool = False,
        on_token: Callable[[], None] | None = None,
    ) -> list[list[Generated]]:
        """Generate ``count`` texts for each prompt; see `ImageTextToTextGenerator.generate`."""
        decoding = self.start(inputs.ids, self.read_pictures(inputs), settings, count=count, thinking=thinking)
        return run(self.language, decoding, on_token)

    def start(
        self,
        rows: Sequence[Sequence[int]],
        soft_prompts: Tensor,
        settings: DecodingSettings,
        *,
        count: int = 1,
        thinking: bool = False,
    ) -> Decoding[list[list[Generated]]]:
        """Read prompts, and return the steps of `generate`; the first two arguments are those of `embed`."""
        import torch

        settings = self.settings(settings, thinking)
        with torch.inference_mode():
            embeddings, mask = self.embed(rows, soft_prompts)
        decoding: Decoding[list[list[GeneratedText]]]
        if count == 1:
            single = start_decoding(self.language, embeddings, mask, settings)
            decoding = single.map(lambda texts: [[text] for text in texts])
        else:
            decoding = start_candidates(self.language, embeddings, mask, settings, count)
        return decoding.map(
            lambda found: [[self._generated(text, settings, thinking) for text in row] for row in found]
        )

    def settings(self, settings: DecodingSettings, thinking: bool = False) -> DecodingSettings:
        """Return the settings with what the checkpoint asks for, and with room for a thought."""
        room = settings.max_new_tokens + (THINKING_TOKENS if thinking else 0)
        return replace(settings, max_new_tokens=room, suppress_tokens=self.loaded.suppress_tokens)

    def _generated(self, text: GeneratedText, settings: DecodingSettings, thinking: bool) -> Generated:
        finished = len(text.ids) < settings.max_new_tokens
        log_prob = text.score * (len(text.ids) + finished)
        return Generated(text.ids, self.decode(text.ids, thinking), log_prob, finished)

    def decode(self, ids: Sequence[int], thinking: bool = False) -> str:
        """Return the text of generated tokens, without special tokens and without what the model thought before it."""
        return without_thinking(self.processor.decode(ids), thinking).strip()

    def answer_log_probs(self, inputs: SmolVLMInputs, prompt: str, answers: Sequence[str]) -> list[float]:
        """Return the log-probability of each answer to a single prompt, that of the end after it included."""
        import torch

        end = list(self.language.eos_token_ids[:1])
        ids = [self.processor.encode_text(f"{separator(prompt)}{self.plain(answer)}") + end for answer in answers]
        with torch.inference_mode():
            logits, kv_cache = self.language.prefill(*self.embed(inputs.ids, self.read_pictures(inputs)))
        return [float(each) for each in sequence_log_probs(self.language, logits, kv_cache, ids)]
