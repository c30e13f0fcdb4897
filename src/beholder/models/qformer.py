"""The Q-Former: learned queries that extract from a frozen image tower what a text needs.

Queries and text share self-attention and have separate feed-forward networks; only the queries attend to the image.

Source: BLIP-2 (arXiv:2301.12597, section 3.1).
Shapes: B batch, Q queries, T text tokens, D width, H heads, N image tokens, Di their width, L cross-attention layers.
"""

import math
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
    """Architecture of a Q-Former. The defaults are the paper's in stage 2, without text input.

    Attributes:
        image_width: Di, width of the image tokens.
        cross_attention_frequency: cross-attention every n layers, starting with the first.
        vocabulary: number of token ids; 0 for a Q-Former without text input.
        dropout: dropout probability in training.
        cross_attention_first: whether cross-attention precedes self-attention in a layer, as in Mask2Former
            (arXiv:2112.01527, section 3.2.2), so that queries exchange what they have seen, not what they are.
        grid_height, grid_width: rows and columns of the grid that the last image tokens form. With them, every
            cross-attention layer learns a bias for each query and image token, which starts as a Gaussian around the
            query's own point of the image (`spatial_prior`); 0 for none.
        prefix_tokens: image tokens before the grid; only with one.
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
    cross_attention_first: bool = False
    grid_height: int = 0
    grid_width: int = 0
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InvalidSetting(f"a width of {self.width} cannot be split into {self.heads} heads")
        if min(self.queries, self.layers, self.cross_attention_frequency) < 1:
            raise InvalidSetting("queries, layers and cross_attention_frequency of a Q-Former must each be at least 1")
        if min(self.grid_height, self.grid_width, self.prefix_tokens) < 0 or bool(self.grid_height) != bool(
            self.grid_width
        ):
            raise InvalidSetting(
                f"grid_height {self.grid_height} and grid_width {self.grid_width} must both be 0, or both above, "
                f"and prefix_tokens {self.prefix_tokens} not below 0"
            )
        if self.prefix_tokens and not self.grid_height:
            raise InvalidSetting("prefix_tokens need a grid_height and a grid_width above 0")

    @property
    def image_positions(self) -> int:
        """Number of image tokens that the position biases are for: N, or 0 without a grid."""
        return self.prefix_tokens + self.grid_height * self.grid_width


class QFormerOutput(NamedTuple):
    """Hidden states of the queries (B, Q, D) and the text (B, T, D), and cross-attention weights (L, B, H, Q, N)."""

    queries: Tensor | None
    text: Tensor | None
    cross_attentions: Tensor | None


class CrossAttentionCache(NamedTuple):
    """What each cross-attention layer needs of the image tokens.

    Attributes:
        keys, values: (B, H, N, D/H) each.
        biases: position biases (Q, N), or None.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.keys[0].shape[0]  # len() would be a constant in a traced network

    def select(self, rows: Tensor) -> "CrossAttentionCache":
        """Return the keys and values of these images (n,); one may be repeated."""
        return CrossAttentionCache(
            tuple(key[rows] for key in self.keys), tuple(value[rows] for value in self.values), self.biases
        )


def spatial_prior(settings: QFormerSettings) -> Tensor:
    """Return the initial position biases (Q, N): logarithms of a Gaussian around each query's point of the image.

    The points form a grid of their own, as square as their number allows, and half the distance between two is the
    standard deviation. Every prefix token gets the mean of the grid's shares, so attention to it is not lost.

    Queries that start alike are given the same gradient, and all end as one vector; here each starts with its own part
    of the image. Source: Gao et al., *Fast Convergence of DETR with Spatially Modulated Co-Attention*
    (arXiv:2101.07448), section 3.2.
    """
    rows = max(count for count in range(1, math.isqrt(settings.queries) + 1) if settings.queries % count == 0)
    columns = settings.queries // rows
    points = _cell_centers(rows, columns)[:, None]
    cells = _cell_centers(settings.grid_height, settings.grid_width)[None]
    distance = (points - cells) * torch.tensor([rows, columns])  # in units of the distance between two points
    prior = -2 * distance.square().sum(-1)
    prefix = prior.logsumexp(1, keepdim=True) - math.log(prior.shape[1])
    return torch.cat([prefix.expand(-1, settings.prefix_tokens), prior], 1)


def _cell_centers(rows: int, columns: int) -> Tensor:
    """Return the centers (rows · columns, 2) of a grid's cells, each coordinate from 0 to 1."""
    vertical, horizontal = ((torch.arange(count) + 0.5) / count for count in (rows, columns))
    return torch.cartesian_prod(vertical, horizontal)


class QFormerAttention(nn.Module):
    """Post-norm attention of tokens (B, N, D) to a source (B, M, Ds), which may be the tokens themselves.

    Args:
        settings: of the Q-Former.
        source_width: Ds.
        position_bias: initial value (N, M) of a learned bias of the attention's logits; none by default.
    """

    def __init__(self, settings: QFormerSettings, source_width: int, position_bias: Tensor | None = None):
        super().__init__()
        self.heads = settings.heads
        self.dropout = settings.dropout
        self.query = nn.Linear(settings.width, settings.width)
        self.key = nn.Linear(source_width, settings.width)
        self.value = nn.Linear(source_width, settings.width)
        self.out = nn.Linear(settings.width, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.position_bias = None if position_bias is None else nn.Parameter(position_bias)

    def forward(self, tokens: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, N, D).

        Args:
            tokens: (B, N, D).
            key, value: of the source (B, H, M, D/H), from `key_value`.
            mask: true where attention is allowed, or a bias of its logits; broadcast to (B, H, N, M).
        """
        query = self.split_heads(self.query(tokens))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        added = F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return self.norm(tokens + added)

    def key_value(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Project a source to keys and values: (B, M, Ds) → (B, H, M, D/H) each."""
        return self.split_heads(self.key(source)), self.split_heads(self.value(source))

    def attention_weights(self, tokens: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attention weights (B, H, N, M) of tokens (B, N, D) to keys (B, H, M, D/H); rows sum to 1.

        A ``bias`` of the logits is broadcast to their shape.
        """
        query = self.split_heads(self.query(tokens))
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return (logits if bias is None else logits + bias).softmax(-1)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """Split the width into heads: (B, N, D) → (B, H, N, D/H)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """A post-norm feed-forward network."""

    def __init__(self, settings: QFormerSettings):
        super().__init__()
        self.dropout = settings.dropout
        self.mlp = Mlp(settings.width, settings.mlp_width, "gelu")
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        return self.norm(tokens + F.dropout(self.mlp(tokens), self.dropout, self.training))


class QFormerLayer(nn.Module):
    """Self-attention over queries and text, cross-attention of the queries in some layers, two feed-forwards."""

    def __init__(self, settings: QFormerSettings, has_cross_attention: bool):
        super().__init__()
        self.attention = QFormerAttention(settings, settings.width)
        position_bias = spatial_prior(settings) if has_cross_attention and settings.grid_height else None
        self.cross_attention = (
            QFormerAttention(settings, settings.image_width, position_bias) if has_cross_attention else None
        )
        self.cross_attention_first = settings.cross_attention_first
        self.query_feed_forward = FeedForward(settings)
        self.text_feed_forward = FeedForward(settings) if settings.vocabulary else None

    def forward(
        self,
        tokens: Tensor,
        queries: int,
        image: tuple[Tensor, Tensor, Tensor | None] | None,
        allowed: Tensor | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, Q + T, D) to the same; with ``output_attentions`` also cross-attention weights (B, H, Q, N).

        ``image`` holds the keys, values and position bias of this layer's cross-attention; None without one, or without
        queries.
        """
        attention_weights = None
        for cross in (True, False) if self.cross_attention_first else (False, True):
            if not cross:
                tokens = self.attention(tokens, *self.attention.key_value(tokens), allowed)
            elif image is not None and self.cross_attention is not None:
                query_tokens = tokens[:, :queries]
                if output_attentions:
                    key, _, bias = image
                    attention_weights = self.cross_attention.attention_weights(query_tokens, key, bias)
                tokens = torch.cat([self.cross_attention(query_tokens, *image), tokens[:, queries:]], 1)
        fed = [self.query_feed_forward(tokens[:, :queries])]
        if self.text_feed_forward is not None:
            fed.append(self.text_feed_forward(tokens[:, queries:]))
        return torch.cat(fed, 1), attention_weights


class QFormer(nn.Module):
    """Image tokens (B, N, Di), a text (B, T), or both → `QFormerOutput`."""

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
            QFormerLayer(settings, has_cross_attention=number % settings.cross_attention_frequency == 0)
            for number in range(settings.layers)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def cross_attention_cache(self, image: Tensor, kept: Tensor | None = None) -> CrossAttentionCache:
        """Project image tokens (B, N, Di) to the keys and values of every cross-attention layer.

        ``kept`` (N,) are their indices among all tokens of an image if some were dropped: they keep their positions.
        """
        layers = [layer.cross_attention for layer in self.layers if isinstance(layer.cross_attention, QFormerAttention)]
        keys, values = zip(*(layer.key_value(image) for layer in layers), strict=True)
        biases: list[Tensor | None] = [layer.position_bias for layer in layers]
        if kept is not None:
            biases = [None if bias is None else bias[:, kept] for bias in biases]
        return CrossAttentionCache(keys, values, tuple(biases))

    def forward(
        self,
        image: Tensor | CrossAttentionCache | None,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        attention_mask: AttentionMask = "bimodal",
        output_attentions: bool = False,
    ) -> QFormerOutput:
        """Run the queries, the text, or both, with a self-attention mask of the paper's figure 2.

        Args:
            image: image tokens (B, N, Di), or their `cross_attention_cache`; without them, there are no queries.
            ids: token ids of a text (B, T).
            mask: (B, T), false at padding; none by default.
            attention_mask: ``bimodal``, all tokens attend to all (matching); ``multimodal_causal``, queries attend to
                queries, and a text token to the queries and the text tokens before it (generation); ``unimodal``,
                queries attend to queries, and text to text (contrast).
            output_attentions: also return the weights of the cross-attention layers.

        Raises:
            InvalidSetting: neither image nor text, a text for a Q-Former without a vocabulary, or one that is too long.
        """
        parts = []
        queries = 0
        cache = self.cross_attention_cache(image) if isinstance(image, Tensor) else image
        if cache is not None:
            queries = self.settings.queries
            parts.append(self.query_tokens.expand(cache.batch_size, -1, -1))
        if ids is not None:
            parts.append(self._embed(ids))
        if not parts:
            raise InvalidSetting("a Q-Former needs an image, a text, or both")
        tokens = F.dropout(self.norm(torch.cat(parts, 1)), self.settings.dropout, self.training)
        allowed = None if ids is None else self_attention_mask(queries, ids, mask, attention_mask)
        cross_attentions = []
        projected = iter([] if cache is None else zip(cache.keys, cache.values, cache.biases, strict=True))
        for layer in self.layers:
            source = None if layer.cross_attention is None else next(projected, None)
            tokens, attention_weights = layer(tokens, queries, source, allowed, output_attentions)
            if attention_weights is not None:
                cross_attentions.append(attention_weights)
        return QFormerOutput(
            tokens[:, :queries] if cache is not None else None,
            tokens[:, queries:] if ids is not None else None,
            torch.stack(cross_attentions) if cross_attentions else None,
        )

    def _embed(self, ids: Tensor) -> Tensor:
        if self.word_embeddings is None or self.position_embeddings is None:
            raise InvalidSetting("this Q-Former takes no text: its vocabulary is 0")
        if ids.shape[1] > self.settings.max_position_embeddings:
            longest = self.settings.max_position_embeddings
            raise InvalidSetting(f"a text of {ids.shape[1]} tokens: this Q-Former takes at most {longest}")
        return self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]


def self_attention_mask(queries: int, ids: Tensor, mask: Tensor | None, attention_mask: AttentionMask) -> Tensor:
    """Return the mask (B, 1, Q + T, Q + T), true where a row may attend to a column."""
    batch, length = ids.shape
    total = queries + length
    allowed = torch.ones(total, total, dtype=torch.bool, device=ids.device)
    match attention_mask:
        case "bimodal":
            pass
        case "multimodal_causal":
            allowed[:queries, queries:] = False
            allowed[queries:, queries:] = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        case "unimodal":
            allowed[:queries, queries:] = False
            allowed[queries:, :queries] = False
        case _:
            raise InvalidSetting(f"attention_mask {attention_mask!r} is none of bimodal, multimodal_causal, unimodal")
    not_padding = torch.ones(batch, total, dtype=torch.bool, device=ids.device)
    if mask is not None:
        not_padding[:, queries:] = mask
    return (allowed & not_padding[:, None, :])[:, None]
