"""The Q-Former: learned queries that ask a frozen picture what a text needs (arXiv:2301.12597, section 3.1).

Queries and text share self-attention; each has a feed-forward of its own; only the queries look at the picture.

Shapes: B batch, Q queries, T text tokens, D width, H heads, N tokens of the picture, Di their width.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import Mlp

AttentionMask = Literal["bimodal", "multimodal_causal", "unimodal"]


@dataclass(frozen=True)
class QFormerSettings:
    """Which Q-Former. The defaults are the paper's, which reads no text when a language model stands behind it.

    Attributes:
        image_width: width of the frozen picture tokens.
        cross_attention_frequency: every so many layers, beginning with the first, look at the picture.
        vocabulary: size of the text's vocabulary; 0 for a Q-Former that reads no text.
        dropout: share of values zeroed while training.
    """

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    image_width: int = 1408
    cross_attention_frequency: int = 2
    vocabulary: int = 0
    max_position_embeddings: int = 512
    norm_eps: float = 1e-12
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InvalidSetting(f"a width of {self.width} cannot be split into {self.heads} heads")
        if min(self.queries, self.layers, self.cross_attention_frequency) < 1:
            raise InvalidSetting("queries, layers and cross_attention_frequency of a Q-Former must each be at least 1")


class QFormerOutput(NamedTuple):
    """Hidden states of the queries (B, Q, D) and the text (B, T, D), and cross-attention weights (L, B, H, Q, N)."""

    queries: Tensor | None
    text: Tensor | None
    cross_attentions: Tensor | None


class QFormerAttention(nn.Module):
    """Tokens (B, N, D) attend to a source (B, M, Ds), perhaps themselves; the sum with the tokens is normalised."""

    def __init__(self, settings: QFormerSettings, source_width: int):
        super().__init__()
        self.heads = settings.heads
        self.dropout = settings.dropout
        self.query = nn.Linear(settings.width, settings.width)
        self.key = nn.Linear(source_width, settings.width)
        self.value = nn.Linear(source_width, settings.width)
        self.out = nn.Linear(settings.width, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``, broadcast to (B, H, N, M), is true where a token may look. → (B, N, D)."""
        query, key, value = (
            self.split_heads(self.query(tokens)),
            self.split_heads(self.key(source)),
            self.split_heads(self.value(source)),
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        added = F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return self.norm(tokens + added)

    def attention_weights(self, tokens: Tensor, source: Tensor) -> Tensor:
        """How much each token looks at each part of the source: (B, H, N, M), rows add up to 1."""
        query, key = self.split_heads(self.query(tokens)), self.split_heads(self.key(source))
        return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, H, N, D/H)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """An MLP whose sum with its input is normalised."""

    def __init__(self, settings: QFormerSettings):
        super().__init__()
        self.dropout = settings.dropout
        self.mlp = Mlp(settings.width, settings.mlp_width, "gelu")
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        return self.norm(tokens + F.dropout(self.mlp(tokens), self.dropout, self.training))


class QFormerLayer(nn.Module):
    """Self-attention over queries and text, the queries' look at the picture in some layers, two feed-forwards."""

    def __init__(self, settings: QFormerSettings, cross_attends: bool):
        super().__init__()
        self.attention = QFormerAttention(settings, settings.width)
        self.cross_attention = QFormerAttention(settings, settings.image_width) if cross_attends else None
        self.query_feed_forward = FeedForward(settings)
        self.text_feed_forward = FeedForward(settings) if settings.vocabulary else None

    def forward(
        self, tokens: Tensor, queries: int, image: Tensor | None, allowed: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, Q + T, D) to the same; with ``output_attentions`` also cross-attention weights (B, H, Q, N)."""
        tokens = self.attention(tokens, tokens, allowed)
        query_tokens, text = tokens[:, :queries], tokens[:, queries:]
        attention_weights = None
        if image is not None and self.cross_attention is not None:
            attention_weights = (
                self.cross_attention.attention_weights(query_tokens, image) if output_attentions else None
            )
            query_tokens = self.cross_attention(query_tokens, image)
        fed = [self.query_feed_forward(query_tokens)]
        if self.text_feed_forward is not None:
            fed.append(self.text_feed_forward(text))
        return torch.cat(fed, 1), attention_weights


class QFormer(nn.Module):
    """Picture tokens (B, N, Di), a text (B, T), or both, to ``QFormerOutput``."""

    def __init__(self, settings: QFormerSettings):
        super().__init__()
        self.settings = settings
        self.query_tokens = nn.Parameter(torch.randn(settings.queries, settings.width) * 0.02)
        self.word_embeddings = nn.Embedding(settings.vocabulary, settings.width) if settings.vocabulary else None
        self.position_embeddings = (
            nn.Embedding(settings.max_position_embeddings, settings.width) if settings.vocabulary else None
        )
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.layers = nn.ModuleList(
            QFormerLayer(settings, cross_attends=number % settings.cross_attention_frequency == 0)
            for number in range(settings.layers)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self,
        image: Tensor | None,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        attention_mask: AttentionMask = "bimodal",
        output_attentions: bool = False,
    ) -> QFormerOutput:
        """Who may look at whom is the paper's figure 2.

        Args:
            image: frozen picture tokens (B, N, Di); without them there are no queries.
            ids: a text (B, T).
            mask: (B, T), true where the text has a token; everywhere by default.
            attention_mask: ``bimodal``, all tokens attend to all (matching); ``multimodal_causal``, queries attend to
                queries, and a text token to the queries and the text tokens before it (generation); ``unimodal``,
                queries attend to queries, and text to text (contrast).
            output_attentions: also return the weights of the cross-attention layers.

        Raises:
            InvalidSetting: neither picture nor text, or a text for a Q-Former that reads none or is too long for it.
        """
        parts = []
        queries = 0
        if image is not None:
            queries = self.settings.queries
            parts.append(self.query_tokens.expand(image.shape[0], -1, -1))
        if ids is not None:
            parts.append(self._read(ids))
        if not parts:
            raise InvalidSetting("a Q-Former needs a picture, a text, or both")
        tokens = F.dropout(self.norm(torch.cat(parts, 1)), self.settings.dropout, self.training)
        allowed = None if ids is None else self_attention_mask(queries, ids, mask, attention_mask)
        cross_attentions = []
        for layer in self.layers:
            tokens, attention_weights = layer(tokens, queries, image, allowed, output_attentions)
            if attention_weights is not None:
                cross_attentions.append(attention_weights)
        return QFormerOutput(
            tokens[:, :queries] if image is not None else None,
            tokens[:, queries:] if ids is not None else None,
            torch.stack(cross_attentions) if cross_attentions else None,
        )

    def _read(self, ids: Tensor) -> Tensor:
        if self.word_embeddings is None or self.position_embeddings is None:
            raise InvalidSetting("this Q-Former reads no text: its vocabulary is 0")
        if ids.shape[1] > self.settings.max_position_embeddings:
            longest = self.settings.max_position_embeddings
            raise InvalidSetting(f"a text of {ids.shape[1]} tokens; this Q-Former reads at most {longest}")
        return self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]


def self_attention_mask(queries: int, ids: Tensor, mask: Tensor | None, attention_mask: AttentionMask) -> Tensor:
    """True where one token may look at another: (B, 1, Q + T, Q + T), rows look at columns."""
    batch, length = ids.shape
    total = queries + length
    may = torch.ones(total, total, dtype=torch.bool, device=ids.device)
    match attention_mask:
        case "bimodal":
            pass
        case "multimodal_causal":
            may[:queries, queries:] = False
            may[queries:, queries:] = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        case "unimodal":
            may[:queries, queries:] = False
            may[queries:, :queries] = False
        case _:
            raise InvalidSetting(f"attention_mask {attention_mask!r} is none of bimodal, multimodal_causal, unimodal")
    there = torch.ones(batch, total, dtype=torch.bool, device=ids.device)
    if mask is not None:
        there[:, queries:] = mask
    return (may & there[:, None, :])[:, None]
