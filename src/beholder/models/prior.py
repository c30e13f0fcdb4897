"""The prior: which picture's embedding a sentence asks for, as a flow in the shared space (arXiv:2204.06125, 2.2).

Shapes: B batch, D width, E the shared space.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.adaptive_norm import Modulation, TimeEmbedding, modulate


@dataclass(frozen=True)
class PriorSettings:
    """Architecture of the prior.

    Attributes:
        embedding: E.
        width: D.
        layers: number of residual blocks.
        hidden: hidden width of a block.
        dropout: of a block's hidden units, in training.
    """

    embedding: int
    width: int = 512
    layers: int = 3
    hidden: int = 1024
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("embedding", "width", "layers", "hidden"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise InvalidSetting(f"dropout {self.dropout} must be a share below 1")


class ResidualBlock(nn.Module):
    """An MLP with adaptive norm and gate."""

    def __init__(self, settings: PriorSettings):
        super().__init__()
        self.norm = nn.LayerNorm(settings.width, elementwise_affine=False)
        self.up = nn.Linear(settings.width, settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.down = nn.Linear(settings.hidden, settings.width)
        self.modulation = Modulation(settings.width, settings.width, 3)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """(B, D) → (B, D)."""
        shift, scale, gate = self.modulation(condition)
        change = self.down(self.dropout(F.silu(self.up(modulate(self.norm(hidden), shift, scale)))))
        return hidden + gate * change


class Prior(nn.Module):
    """A noisy picture's embedding, a time and a sentence's embedding → the picture's embedding."""

    def __init__(self, settings: PriorSettings):
        super().__init__()
        self.settings = settings
        self.unconditional = nn.Parameter(torch.randn(settings.embedding) * 0.02)
        self.input = nn.Linear(settings.embedding, settings.width)
        self.sentence = nn.Linear(settings.embedding, settings.width)
        self.time = TimeEmbedding(settings.width)
        self.blocks = nn.ModuleList(ResidualBlock(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.output = nn.Linear(settings.width, settings.embedding)

    def forward(self, noisy: Tensor, time: Tensor, sentence: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Predict the embeddings of pictures.

        Args:
            noisy: (B, E).
            time: (B,), 0 for noise, 1 for the embedding.
            sentence: (B, E), centered and scaled.
            dropped: (B,), true where the sentence is to be left out.

        Returns:
            (B, E), centered and scaled.
        """
        if dropped is not None:
            sentence = torch.where(dropped[:, None], self.unconditional, sentence)
        asked = self.sentence(sentence)
        condition = F.silu(self.time(time) + asked)
        hidden = self.input(noisy) + asked
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.output(self.norm(hidden)).float()
