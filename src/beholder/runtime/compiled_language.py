"""A compiled language model behind the protocol that decoding speaks (`beholder.runtime.decoding.Language`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beholder.models.language_model import LanguageModel


class CompiledKVCache:
    """What the network keeps of the rows of one call, and which of their places are no padding (B, L)."""

    def __init__(self, request: Any, mask: Tensor):
        self.request = request
        self.mask = mask
        self.beams = torch.arange(len(mask), dtype=torch.int32)  # rows to go on from, chosen since the last call

    def select(self, rows: Tensor) -> None:
        """Keeps these rows (n,), in this order; a row may come several times."""
        self.mask = self.mask[rows]
        self.beams = self.beams[rows]


class CompiledLanguageModel:
    """Reads vectors in place of words, on the CPU.

    Args:
        network: made by `beholder.runtime.language_network`, and compiled.
        table: the vectors of all words (V, D).
        ends: the tokens that end what it writes.
        context_length: the most tokens and soft prompts that it was made to read together; 0 where there is no end.
        original: loads the network in torch, which can say what it attended to.
    """

    encoder_decoder = False
    decoder_start_token_ids: tuple[int, ...] = ()

    def __init__(
        self,
        network: Any,
        table: np.ndarray,
        eos_token_ids: tuple[int, ...],
        context_length: int,
        original: Callable[[], LanguageModel],
    ):
        self.network = network
        self.table = table
        self.eos_token_ids = eos_token_ids
        self.context_length = context_length
        self.original = original

    @property
    def width(self) -> int:
        """D."""
        return int(self.table.shape[1])

    def embed(self, ids: Tensor) -> Tensor:
        """Words (B, T) in the model's own space: (B, T, D)."""
        return torch.from_numpy(self.table[ids.numpy()].astype(np.float32))

    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, CompiledKVCache]:
        """As `LanguageModel.begin`."""
        kv_cache = CompiledKVCache(self.network.create_infer_request(), mask.new_zeros(len(mask), 0))
        kv_cache.beams = torch.arange(len(mask), dtype=torch.int32)
        return self._read(embeddings, mask, kv_cache, all_positions=False), kv_cache

    def decode(self, ids: Tensor, kv_cache: CompiledKVCache, *, all_positions: bool = False) -> Tensor:
        """As `LanguageModel.decode`."""
        return self._read(
            self.embed(ids), torch.ones_like(ids, dtype=torch.bool), kv_cache, all_positions=all_positions
        )

    def prompt_attention(self, embeddings: Tensor, ids: list[int]) -> Tensor:
        """As `LanguageModel.attended`."""
        return self.original().prompt_attention(embeddings, ids)

    def _read(self, vectors: Tensor, mask: Tensor, kv_cache: CompiledKVCache, *, all_positions: bool) -> Tensor:
        known, count = kv_cache.mask.shape[1], mask.shape[1]
        kv_cache.mask = torch.cat([kv_cache.mask, mask], 1)
        places = torch.arange(known, known + count)
        # A token sees those up to its own place; padding sees itself alone, for a row that sees nothing has no mean.
        before = torch.arange(known + count) <= places[:, None]
        allowed = (kv_cache.mask[:, None] & before) | (torch.arange(known + count) == places[:, None])
        positions = (kv_cache.mask.long().cumsum(1) - 1).clamp(min=0)[:, known:]
        inputs = {
            "vectors": vectors.float(),
            "allowed": allowed[:, None],
            "positions": positions,
            "kept": torch.arange(0 if all_positions else count - 1, count),
            "beams": kv_cache.beams,
        }
        logits = kv_cache.request.infer({name: tensor.contiguous().numpy() for name, tensor in inputs.items()})[0]
        kv_cache.beams = torch.arange(len(mask), dtype=torch.int32)
        logits = torch.from_numpy(np.array(logits))  # the memory that OpenVINO gave is used again
        return logits if all_positions else logits[:, -1]
