"""A compiled language model, for the protocol of decoding (`beholder.runtime.decoding.Language`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beholder.models.language_model import LanguageModel, leading_padding
from beholder.runtime.engine import openvino


class CompiledKVCache:
    """An infer request, whose states are the keys and values of a batch, and the padding mask (B, L)."""

    def __init__(self, request: Any, mask: Tensor):
        self.request = request
        self.mask = mask
        self.beam_idx = torch.arange(len(mask), dtype=torch.int32)  # rows to continue, selected since the last call

    def select(self, rows: Tensor) -> None:
        """Select and reorder rows (n,) of the batch; a row may be repeated."""
        self.mask = self.mask[rows]
        self.beam_idx = self.beam_idx[rows]

    @property
    def joinable(self) -> bool:
        """Whether `join` works: compiled caches hold all keys and values."""
        return True

    def join(self, others: list[CompiledKVCache]) -> None:
        """Append the rows of other caches to this one. Shorter rows are padded on the left."""
        caches = [self, *others]
        starts = [leading_padding(each.mask) for each in caches]
        lengths = [each.mask.shape[1] - start for each, start in zip(caches, starts, strict=True)]
        rows = [len(each.mask) for each in caches]
        mask = torch.zeros(sum(rows), max(lengths), dtype=torch.bool)
        ends = np.cumsum(rows).tolist()
        places = list(zip(caches, starts, lengths, rows, ends, strict=True))
        for cache, start, length, count, end in places:
            mask[end - count : end, max(lengths) - length :] = cache.mask[:, start:]
        states = [{state.name: state for state in cache.request.query_state()} for cache in caches]
        for name, state in states[0].items():
            joined: np.ndarray | None = None
            for (cache, start, length, count, end), each in zip(places, states, strict=True):
                part = each[name].state.data
                if joined is None:
                    joined = np.zeros((sum(rows), part.shape[1], max(lengths), part.shape[3]), part.dtype)
                joined[end - count : end, :, max(lengths) - length :] = part[cache.beam_idx.numpy()][:, :, start:]
            state.state = openvino().Tensor(joined)
        self.mask = mask
        self.beam_idx = torch.arange(len(mask), dtype=torch.int32)

    def trim(self) -> None:
        """Drop the leading positions that are padding in every row."""
        if leading_padding(self.mask):
            self.join([])

    def crop(self, length: int) -> None:
        """Keep the first ``length`` positions."""
        if length < self.mask.shape[1]:
            for state in self.request.query_state():
                state.state = openvino().Tensor(np.ascontiguousarray(state.state.data[:, :, :length]))
            self.mask = self.mask[:, :length]


class CompiledLanguageModel:
    """A language model on the CPU that reads embeddings in place of token ids. Threads may share it.

    Args:
        network: from `beholder.runtime.language_network`, compiled.
        embeddings: of all tokens (V, D).
        eos_token_ids: tokens that end a text.
        context_length: maximum number of tokens and soft prompts together; 0 if unlimited.
        original: loads the network in torch, which can return attention weights.
    """

    encoder_decoder = False
    decoder_start_token_ids: tuple[int, ...] = ()

    def __init__(
        self,
        network: Any,
        embeddings: np.ndarray,
        eos_token_ids: tuple[int, ...],
        context_length: int,
        original: Callable[[], LanguageModel],
    ):
        self.network = network
        self.embeddings = embeddings
        self.eos_token_ids = eos_token_ids
        self.context_length = context_length
        self.original = original

    @property
    def width(self) -> int:
        """D."""
        return int(self.embeddings.shape[1])

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids: (B, T) → (B, T, D)."""
        return torch.from_numpy(self.embeddings[ids.numpy()].astype(np.float32))

    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, CompiledKVCache]:
        """As `LanguageModel.prefill`."""
        # Each cache has a request of its own: the keys and values are its states.
        kv_cache = CompiledKVCache(self.network.create_infer_request(), mask.new_zeros(len(mask), 0))
        kv_cache.beam_idx = torch.arange(len(mask), dtype=torch.int32)
        return self._read(embeddings, mask, kv_cache, all_positions=False), kv_cache

    def decode(self, ids: Tensor, kv_cache: CompiledKVCache, *, all_positions: bool = False) -> Tensor:
        """As `LanguageModel.decode`."""
        mask = torch.ones_like(ids, dtype=torch.bool)
        return self._read(self.embed(ids), mask, kv_cache, all_positions=all_positions)

    def prompt_attention(self, embeddings: Tensor, ids: list[int]) -> Tensor:
        """As `LanguageModel.prompt_attention`."""
        return self.original().prompt_attention(embeddings, ids)

    def _read(self, embeddings: Tensor, mask: Tensor, kv_cache: CompiledKVCache, *, all_positions: bool) -> Tensor:
        cached, count = kv_cache.mask.shape[1], mask.shape[1]
        kv_cache.mask = torch.cat([kv_cache.mask, mask], 1)
        rows = torch.arange(cached, cached + count)[:, None]
        columns = torch.arange(cached + count)
        # Causal; padding attends to itself alone, because a softmax over nothing is NaN.
        allowed = (kv_cache.mask[:, None] & (columns <= rows)) | (columns == rows)
        positions = (kv_cache.mask.long().cumsum(1) - 1).clamp(min=0)[:, cached:]
        inputs = {
            "inputs_embeds": embeddings.float(),
            "attention_mask": allowed[:, None],
            "position_ids": positions,
            "logit_indices": torch.arange(0 if all_positions else count - 1, count),
            "beam_idx": kv_cache.beam_idx,
        }
        logits = kv_cache.request.infer({name: tensor.contiguous().numpy() for name, tensor in inputs.items()})[0]
        kv_cache.beam_idx = torch.arange(len(mask), dtype=torch.int32)
        logits = torch.from_numpy(np.array(logits))  # a copy: the request's memory is reused
        return logits if all_positions else logits[:, -1]
