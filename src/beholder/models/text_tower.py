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
    """Which text transformer. The defaults are the text tower of OpenAI's CLIP ViT-B/32.

    Attributes:
        vocabulary: ids that the tokenizer may give.
        context_length: tokens that there are positions for.
        causal: a token sees only those before it, so that padding after the end changes nothing.
        pooling: the token whose vector stands for the sentence: the one with the ``highest_id`` (the end mark of
            CLIP's own vocabulary), the first ``end`` mark (``end_id``), the ``first`` or the ``last`` of all.
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
        """Whether every sentence must be padded to ``context_length``, because the padding is seen."""
        return not self.causal or self.pooling == "last"


class TextTransformer(nn.Module):
    """Ids (B, T) to ``TowerOutput``: tokens (B, T, D) and pooled (B, D)."""

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
        """(B, T) → tokens (B, T, D), pooled (B, D).

        ``mask`` is not looked at: these networks were trained without one. The causal ones can't see padding, which
        comes last; the others must be given the padding that they were trained with.

        Raises:
            InvalidSetting: T is not a length that this network was trained for.
        """
        length, longest = ids.shape[1], self.settings.context_length
        if length > longest or (length != longest and self.settings.full_length):
            wanted = "exactly" if self.settings.full_length else "at most"
            raise InvalidSetting(f"a text of {length} tokens: this network takes {wanted} {longest}")
        tokens = self.embedding(ids) + self.positions[:length]
        for block in self.blocks:
            tokens = block(tokens, causal=self.settings.causal)
        tokens = self.final_norm(tokens)
        return TowerOutput(tokens, tokens[torch.arange(ids.shape[0], device=ids.device), self.pooled_position(ids)])

    def pooled_position(self, ids: Tensor) -> Tensor:
        """Index of the token that stands for each sentence: (B, T) → (B,)."""
        match self.settings.pooling:
            case "highest_id":
                return ids.argmax(dim=1)
            case "end":
                return (ids == self.settings.end_id).int().argmax(dim=1)
            case "first":
                return torch.zeros_like(ids[:, 0])
            case "last":
                return torch.full_like(ids[:, 0], ids.shape[1] - 1)
