"""BERT (arXiv:1810.04805) as a text tower: Chinese-CLIP's, AltCLIP's, and MiniLM sentence encoders.

Shapes: B batch, T text tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import Activation, Attention, Mlp, TowerOutput


@dataclass(frozen=True)
class BertSettings:
    """Architecture of a BERT encoder. The defaults are those of bert-base-uncased.

    Attributes:
        vocabulary: number of token ids.
        context_length: number of position embeddings.
        pooling: the ``first`` token (``[CLS]``), or the ``mean`` of all tokens but padding.
        token_types: rows of the segment embedding table; a single sentence uses the first.
        final_norm: whether the tokens are normalized before they are pooled.
    """

    vocabulary: int = 30522
    context_length: int = 512
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    pooling: Literal["first", "mean"] = "first"
    token_types: int = 2
    final_norm: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in ("first", "mean"):
            raise InvalidSetting(f"BERT pooling {self.pooling!r} is neither first nor mean")


class BertBlock(nn.Module):
    """A post-norm transformer layer, as in the original transformer (arXiv:1706.03762)."""

    def __init__(self, settings: BertSettings):
        super().__init__()
        self.attention = Attention(settings.width, settings.heads)
        self.norm_attention = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.mlp = Mlp(settings.width, settings.mlp_width, settings.activation)
        self.norm_mlp = nn.LayerNorm(settings.width, eps=settings.norm_eps)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D); ``mask`` (B, 1, 1, T)."""
        tokens = self.norm_attention(tokens + self.attention(tokens, mask))
        return self.norm_mlp(tokens + self.mlp(tokens))


class Bert(nn.Module):
    """Token ids (B, T) and mask (B, T) → `TowerOutput`: tokens (B, T, D) and pooled (B, D)."""

    def __init__(self, settings: BertSettings):
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(settings.vocabulary, settings.width)
        self.positions = nn.Parameter(torch.randn(settings.context_length, settings.width) * 0.02)
        self.token_types = nn.Parameter(torch.zeros(settings.token_types, settings.width))
        self.first_norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.blocks = nn.ModuleList(BertBlock(settings) for _ in range(settings.layers))
        self.final_norm = nn.LayerNorm(settings.width, eps=settings.norm_eps) if settings.final_norm else nn.Identity()

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> TowerOutput:
        """Encode token ids: (B, T) → tokens (B, T, D), pooled (B, D).

        Args:
            ids: (B, T).
            mask: (B, T), false at padding.

        Raises:
            InvalidSetting: T exceeds ``context_length``.
        """
        length = ids.shape[1]
        if length > self.settings.context_length:
            raise InvalidSetting(
                f"a text of {length} tokens: this network takes at most {self.settings.context_length}"
            )
        tokens = self.first_norm(self.embedding(ids) + self.positions[:length] + self.token_types[0])
        attention_mask = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            tokens = block(tokens, attention_mask)
        tokens = self.final_norm(tokens)
        if self.settings.pooling == "first":
            return TowerOutput(tokens, tokens[:, 0])
        if mask is None:
            return TowerOutput(tokens, tokens.mean(dim=1))
        weights = mask[..., None].to(tokens.dtype)  # (B, T, 1)
        return TowerOutput(tokens, (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1))
