"""The text transformer of CLIP (arXiv:2103.00020, section 2.4), OpenCLIP and SigLIP (arXiv:2303.15343).

Shapes: B batch, T text tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import Activation, Block, TowerOutput


@dataclass(frozen=True)
class TextTransformerSettings:
    """Architecture of a text transformer. The defaults are those of OpenAI's CLIP ViT-B/32.

    Attributes:
        vocabulary: number of token ids.
        context_length: number of position embeddings.
        causal: tokens attend to themselves and earlier tokens only, so that padding after the end has no effect.
        pooling: the token whose vector represents the text: the one with the ``highest_id`` (the end-of-text token of
            CLIP's vocabulary), the first ``end`` token (``end_id``), the ``first`` or the ``last`` position.
    """

    vocabulary: int = 49408
    context_length: int = 77
    width: int = 512
    layers: int = 12
    heads: int = 8
    mlp_width: int = 2048
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5
    causal: bool = True
    layer_scale: bool = False
    pooling: Literal["highest_id", "end", "first", "last"] = "highest_id"
    end_id: int = 49407

    def __post_init__(self) -> None:
        if self.pooling not in ("highest_id", "end", "first", "last"):
            raise InvalidSetting(f"text pooling {self.pooling!r} is none of highest_id, end, first, last")

    @property
    def full_length(self) -> bool:
        """Whether texts must be padded to ``context_length``, because padding is attended to."""
        return not self.causal or self.pooling == "last"


class TextTransformer(nn.Module):
    """Token ids (B, T) → `TowerOutput`: tokens (B, T, D) and pooled (B, D)."""

    def __init__(self, settings: TextTransformerSettings):
        super().__init__()
        self.settings = settings
        width = settings.width
        self.embedding = nn.Embedding(settings.vocabulary, width)
        self.positions = nn.Parameter(torch.randn(settings.context_length, width) * 0.01)
        self.blocks = nn.ModuleList(
            Block(
                width,
                settings.heads,
                settings.mlp_width,
                settings.activation,
                settings.norm_eps,
                layer_scale=settings.layer_scale,
            )
            for _ in range(settings.layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=settings.norm_eps)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> TowerOutput:
        """Encode token ids: (B, T) → tokens (B, T, D), pooled (B, D).

        ``mask`` is ignored, as in training. Causal networks never attend to padding, which comes last; the others need
        the padding that they were trained with.

        Raises:
            InvalidSetting: the network was not trained for texts of T tokens.
        """
        length, longest = ids.shape[1], self.settings.context_length
        if length > longest or (length != longest and self.settings.full_length):
            expected = "exactly" if self.settings.full_length else "at most"
            raise InvalidSetting(f"a text of {length} tokens: this network takes {expected} {longest}")
        tokens = self.embedding(ids) + self.positions[:length]
        for block in self.blocks:
            tokens = block(tokens, causal=self.settings.causal)
        tokens = self.final_norm(tokens)
        return TowerOutput(tokens, tokens[torch.arange(ids.shape[0], device=ids.device), self.pooled_position(ids)])

    def pooled_position(self, ids: Tensor) -> Tensor:
        """Return the index of the token that represents each text: (B, T) → (B,)."""
        match self.settings.pooling:
            case "highest_id":
                return ids.argmax(dim=1)
            case "end":
                return (ids == self.settings.end_id).int().argmax(dim=1)
            case "first":
                return torch.zeros_like(ids[:, 0])
            case "last":
                return torch.full_like(ids[:, 0], ids.shape[1] - 1)
