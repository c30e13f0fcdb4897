"""A compiled language model behind the protocol that decoding speaks (`beholder.runtime.decoding.Language`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beholder.models.language_model import LanguageModel


class CompiledMemory:
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
    starts: tuple[int, ...] = ()

    def __init__(
        self,
        network: Any,
        table: np.ndarray,
        ends: tuple[int, ...],
        context_length: int,
        original: Callable[[], LanguageModel],
    ):
        self.network = network
        self.table = table
        self.ends = ends
        self.context_length = context_length
        self.original = original

    @property
    def width(self) -> int:
        """D."""
        return int(self.table.shape[1])

    def embed(self, ids: Tensor) -> Tensor:
        """Words (B, T) in the model's own space: (B, T, D)."""
        return torch.from_numpy(self.table[ids.numpy()].astype(np.float32))

    def begin(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, CompiledMemory]:
        """As `LanguageModel.begin`."""
        memory = CompiledMemory(self.network.create_infer_request(), mask.new_zeros(len(mask), 0))
        memory.beams = torch.arange(len(mask), dtype=torch.int32)
        return self._read(embeddings, mask, memory, every=False), memory

    def go_on(self, ids: Tensor, memory: CompiledMemory, *, every: bool = False) -> Tensor:
        """As `LanguageModel.go_on`."""
        return self._read(self.embed(ids), torch.ones_like(ids, dtype=torch.bool), memory, every=every)

    def attended(self, embeddings: Tensor, ids: list[int]) -> Tensor:
        """As `LanguageModel.attended`."""
        return self.original().attended(embeddings, ids)

    def _read(self, vectors: Tensor, mask: Tensor, memory: CompiledMemory, *, every: bool) -> Tensor:
        known, count = memory.mask.shape[1], mask.shape[1]
        memory.mask = torch.cat([memory.mask, mask], 1)
        places = torch.arange(known, known + count)
        # A token sees those up to its own place; padding sees itself alone, for a row that sees nothing has no mean.
        before = torch.arange(known + count) <= places[:, None]
        allowed = (memory.mask[:, None] & before) | (torch.arange(known + count) == places[:, None])
        positions = (memory.mask.long().cumsum(1) - 1).clamp(min=0)[:, known:]
        inputs = {
            "vectors": vectors.float(),
            "allowed": allowed[:, None],
            "positions": positions,
            "kept": torch.arange(0 if every else count - 1, count),
            "beams": memory.beams,
        }
        logits = memory.request.infer({name: tensor.contiguous().numpy() for name, tensor in inputs.items()})[0]
        memory.beams = torch.arange(len(mask), dtype=torch.int32)
        logits = torch.from_numpy(np.array(logits))  # the memory that OpenVINO gave is used again
        return logits if every else logits[:, -1]
