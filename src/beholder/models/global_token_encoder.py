"""A convolutional tower whose grid comes with two tokens that stand for the whole picture.

What the class token is to a vision transformer, they are to a grid: a place where the whole is summed up, here in the
words of a text tower. The first is the sentence vector that a caption of the picture is expected to have, a linear map
of the pooled features; the second the mean of the class names' sentence vectors, weighed by the classifier's
probabilities. A bridge trained on few pictures need not learn again what classifier and map know.

Shapes: B pictures, N cells of the grid, D their width, S a sentence vector's width, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.layers import TowerOutput


@dataclass(frozen=True)
class GlobalTokenEncoderSettings:
    """Which tower, and how wide a sentence vector is."""

    tower: EfficientNetLiteSettings
    sentence_width: int


class GlobalTokenEncoder(nn.Module):
    """Pixels (B, 3, H, W) to tokens (B, 2 + N, D + 2 S): each of the three kinds has channels of its own."""

    def __init__(self, settings: GlobalTokenEncoderSettings):
        super().__init__()
        self.settings = settings
        self.tower = EfficientNetLite(settings.tower)
        self.caption = nn.Linear(settings.tower.width, settings.sentence_width)
        self.names = nn.Linear(settings.tower.classes, settings.sentence_width, bias=False)

    def forward(self, pixels: Tensor) -> TowerOutput:
        """(B, 3, H, W) → tokens and the pooled features (B, D)."""
        grid, pooled = self.tower(pixels)
        return TowerOutput(self.beside(grid.flatten(2).transpose(1, 2)), pooled)

    def beside(self, grid: Tensor, caption: nn.Linear | None = None) -> Tensor:
        """The cells of a grid (B, N, D) behind the two tokens; ``caption`` is another map to a caption's vector."""
        pooled = grid.mean(1)
        rooted = F.normalize(pooled.clamp(min=0).sqrt(), dim=-1)
        said = (self.caption if caption is None else caption)(rooted)
        named = self.names(self.tower.classify(pooled).softmax(-1))
        width, sentence = grid.shape[-1], said.shape[-1]
        return torch.cat(
            [
                F.pad(said, (width, sentence))[:, None],
                F.pad(named, (width + sentence, 0))[:, None],
                F.pad(grid, (0, 2 * sentence)),
            ],
            1,
        )
