"""BERT with its token embeddings in 4 bits, so that a vocabulary of 250,000 pieces takes 60 MB instead of 384.

Shapes: B batch, T text tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beholder.models.bert import Bert, BertSettings

GROUP = 32  # weights of a row that share a scale
ZERO = 8


class QuantizedEmbedding(nn.Module):
    """Ids (B, T) to embeddings (B, T, D), each row dequantized when it is looked up.

    The layout of a group is ggml's Q4_0: the low nibbles of 16 bytes are its first 16 weights, the high nibbles the
    other 16, and a weight is (nibble - 8) · scale.

    Args:
        vocabulary: rows.
        width: D, a multiple of 32.
    """

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.register_buffer("codes", torch.full((vocabulary, width // 2), ZERO * 17, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(vocabulary, width // GROUP))
        self.codes: Tensor
        self.scales: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, T, D)."""
        codes = self.codes[ids].unflatten(-1, (-1, GROUP // 2))  # (B, T, D / 32, 16)
        scales = self.scales[ids]
        nibbles = torch.cat([codes & 15, codes >> 4], dim=-1)  # (B, T, D / 32, 32)
        return ((nibbles.to(scales.dtype) - ZERO) * scales[..., None]).flatten(-2)


@dataclass(frozen=True)
class QuantizedBertSettings(BertSettings):
    """Architecture of a BERT encoder whose token embeddings are quantized."""


class QuantizedBert(Bert):
    """A `Bert` that dequantizes the embeddings of the tokens it is given."""

    def __init__(self, settings: QuantizedBertSettings):
        super().__init__(settings)
        self.embedding = QuantizedEmbedding(settings.vocabulary, settings.width)  # type: ignore[assignment]
