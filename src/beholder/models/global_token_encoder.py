"""A convolutional image tower with two global tokens before the cells of its feature map.

They summarize the image, as a vision transformer's class token does, in the space of a sentence encoder. The first is
the predicted sentence embedding of a caption, a linear map of the pooled features; the second the mean of the class
names' sentence embeddings, weighted by the classifier's probabilities. A bridge trained on few images thus need not
learn again what the classifier and the linear map know.

Shapes: B images, N cells of the feature map, D their width, S width of a sentence embedding, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.layers import TowerOutput


@dataclass(frozen=True)
class GlobalTokenEncoderSettings:
    """The convolutional tower and the width of a sentence embedding."""

    tower: EfficientNetLiteSettings
    sentence_width: int


class GlobalTokenEncoder(nn.Module):
    """Pixels (B, 3, H, W) → tokens (B, 2 + N, D + 2 S); cells and global tokens have separate channels."""

    def __init__(self, settings: GlobalTokenEncoderSettings):
        super().__init__()
        self.settings = settings
        self.tower = EfficientNetLite(settings.tower)
        self.caption = nn.Linear(settings.tower.width, settings.sentence_width)
        self.names = nn.Linear(settings.tower.classes, settings.sentence_width, bias=False)

    def forward(self, pixels: Tensor) -> TowerOutput:
        """(B, 3, H, W) → tokens (B, 2 + N, D + 2 S), pooled features (B, D)."""
        grid, pooled = self.tower(pixels)
        return TowerOutput(self.add_global_tokens(grid.flatten(2).transpose(1, 2)), pooled)

    def add_global_tokens(self, grid: Tensor, caption: nn.Linear | None = None) -> Tensor:
        """Prepend the global tokens to cells: (B, N, D) → (B, 2 + N, D + 2 S).

        Args:
            grid: cells of the feature map.
            caption: linear map to the caption's embedding in place of the tower's own.
        """
        pooled = grid.mean(1)
        normalized = F.normalize(pooled.clamp(min=0).sqrt(), dim=-1)
        caption_embedding = (self.caption if caption is None else caption)(normalized)
        class_embedding = self.names(self.tower.classify(pooled).softmax(-1))
        width, sentence_width = grid.shape[-1], caption_embedding.shape[-1]
        return torch.cat(
            [
                F.pad(caption_embedding, (width, sentence_width))[:, None],
                F.pad(class_embedding, (width + sentence_width, 0))[:, None],
                F.pad(grid, (0, 2 * sentence_width)),
            ],
            1,
        )
