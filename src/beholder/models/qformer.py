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

Sees = Literal["matching", "generation", "contrast"]


@dataclass(frozen=True)
class QFormerSettings:
    """Which Q-Former. The defaults are the paper's, which reads no text when a language model stands behind it.

    Attributes:
        image_width: width of the frozen picture tokens.
        cross_every: every so many layers, beginning with the first, look at the picture.
        vocabulary: size of the text's vocabulary; 0 for a Q-Former that reads no text.
        dropout: share of values zeroed while training.
    """

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    image_width: int = 1408
    cross_every: int = 2
    vocabulary: int = 0
    positions: int = 512
    norm_eps: float = 1e-12
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InvalidSetting(f"a width of {self.width} cannot be split into {self.heads} heads")
        if min(self.queries, self.layers, self.cross_every) < 1:
            raise InvalidSetting("queries, layers and cross_every of a Q-Former must each be at least 1")


class QFormerOutput(NamedTuple):
    """What the queries (B, Q, D) and the text (B, T, D) became; ``looked`` (L, B, H, Q, N) where they looked."""

    queries: Tensor | None
    text: Tensor | None
    looked: Tensor | None


class Look(nn.Module):
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
        query, key, value = self.split(self.query(tokens)), self.split(self.key(source)), self.split(self.value(source))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        added = F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return self.norm(tokens + added)

    def weights(self, tokens: Tensor, source: Tensor) -> Tensor:
        """How much each token looks at each part of the source: (B, H, N, M), rows add up to 1."""
        query, key = self.split(self.query(tokens)), self.split(self.key(source))
        return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)

    def split(self, tokens: Tensor) -> Tensor:
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

    def __init__(self, settings: QFormerSettings, looks: bool):
        super().__init__()
        self.attention = Look(settings, settings.width)
        self.look = Look(settings, settings.image_width) if looks else None
        self.query_feed = FeedForward(settings)
        self.text_feed = FeedForward(settings) if settings.vocabulary else None

    def forward(
        self, tokens: Tensor, queries: int, image: Tensor | None, allowed: Tensor | None, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, Q + T, D) to the same; with ``weights`` also where the queries looked (B, H, Q, N)."""
        tokens = self.attention(tokens, tokens, allowed)
        asking, text = tokens[:, :queries], tokens[:, queries:]
        seen = None
        if image is not None and self.look is not None:
            seen = self.look.weights(asking, image) if weights else None
            asking = self.look(asking, image)
        fed = [self.query_feed(asking)]
        if self.text_feed is not None:
            fed.append(self.text_feed(text))
        return torch.cat(fed, 1), seen


class QFormer(nn.Module):
    """Picture tokens (B, N, Di), a text (B, T), or both, to ``QFormerOutput``."""

    def __init__(self, settings: QFormerSettings):
        super().__init__()
        self.settings = settings
        self.queries = nn.Parameter(torch.randn(settings.queries, settings.width) * 0.02)
        self.words = nn.Embedding(settings.vocabulary, settings.width) if settings.vocabulary else None
        self.positions = nn.Embedding(settings.positions, settings.width) if settings.vocabulary else None
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.layers = nn.ModuleList(
            QFormerLayer(settings, looks=number % settings.cross_every == 0) for number in range(settings.layers)
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
        sees: Sees = "matching",
        weights: bool = False,
    ) -> QFormerOutput:
        """Who may look at whom is the paper's figure 2.

        Args:
            image: frozen picture tokens (B, N, Di); without them there are no queries.
            ids: a text (B, T).
            mask: (B, T), true where the text has a token; everywhere by default.
            sees: ``matching``, all see all; ``generation``, queries see queries, a word the queries and the words
                before it; ``contrast``, queries see queries and the text sees itself.
            weights: also say where the queries looked, in the layers that look.

        Raises:
            InvalidSetting: neither picture nor text, or a text for a Q-Former that reads none or is too long for it.
        """
        parts = []
        queries = 0
        if image is not None:
            queries = self.settings.queries
            parts.append(self.queries.expand(image.shape[0], -1, -1))
        if ids is not None:
            parts.append(self._read(ids))
        if not parts:
            raise InvalidSetting("a Q-Former needs a picture, a text, or both")
        tokens = F.dropout(self.norm(torch.cat(parts, 1)), self.settings.dropout, self.training)
        allowed = None if ids is None else allowed_looks(queries, ids, mask, sees)
        looked = []
        for layer in self.layers:
            tokens, seen = layer(tokens, queries, image, allowed, weights)
            if seen is not None:
                looked.append(seen)
        return QFormerOutput(
            tokens[:, :queries] if image is not None else None,
            tokens[:, queries:] if ids is not None else None,
            torch.stack(looked) if looked else None,
        )

    def _read(self, ids: Tensor) -> Tensor:
        if self.words is None or self.positions is None:
            raise InvalidSetting("this Q-Former reads no text: its vocabulary is 0")
        if ids.shape[1] > self.settings.positions:
            longest = self.settings.positions
            raise InvalidSetting(f"a text of {ids.shape[1]} tokens; this Q-Former reads at most {longest}")
        return self.words(ids) + self.positions.weight[: ids.shape[1]]


def allowed_looks(queries: int, ids: Tensor, mask: Tensor | None, sees: Sees) -> Tensor:
    """True where one token may look at another: (B, 1, Q + T, Q + T), rows look at columns."""
    batch, length = ids.shape
    total = queries + length
    may = torch.ones(total, total, dtype=torch.bool, device=ids.device)
    match sees:
        case "matching":
            pass
        case "generation":
            may[:queries, queries:] = False
            may[queries:, queries:] = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        case "contrast":
            may[:queries, queries:] = False
            may[queries:, :queries] = False
        case _:
            raise InvalidSetting(f"sees {sees!r} is none of matching, generation, contrast")
    there = torch.ones(batch, total, dtype=torch.bool, device=ids.device)
    if mask is not None:
        there[:, queries:] = mask
    return (may & there[:, None, :])[:, None]
