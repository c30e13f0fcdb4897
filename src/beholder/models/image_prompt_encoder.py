"""CLIP's image tower as image prompts use it: its embedding keeps its length (IP-Adapter, Kandinsky 2.2).

Shapes: B batch, E the projection.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from beholder.models.vit import VisionSettings, VisionTransformer


@dataclass(frozen=True)
class ImagePromptEncoderSettings:
    """Architecture of the tower.

    Attributes:
        image: of the vision transformer.
        projection: E.
    """

    image: VisionSettings
    projection: int


class ImagePromptEncoder(nn.Module):
    """Pixels → embeddings that are not brought to unit length."""

    def __init__(self, settings: ImagePromptEncoderSettings):
        super().__init__()
        self.settings = settings
        self.image = VisionTransformer(settings.image)
        self.projection = nn.Linear(settings.image.width, settings.projection, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, E)."""
        return self.projection(self.image(pixels).pooled)
