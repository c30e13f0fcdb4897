"""The connector from image tokens to a language model: pixel shuffle and one matrix.

Shapes: B batch, N image tokens (h × w), Di their width, s the scale factor, Dl the language model's width.
"""

from dataclasses import dataclass
from math import isqrt

from torch import Tensor, nn

from beholder.errors import InvalidSetting


@dataclass(frozen=True)
class ConnectorSettings:
    """Architecture of a connector.

    Attributes:
        scale_factor: s, the side of the squares of image tokens that become one soft prompt.
        image_width: Di.
        language_width: Dl.
    """

    scale_factor: int
    image_width: int
    language_width: int

    def __post_init__(self) -> None:
        if self.scale_factor < 1:
            raise InvalidSetting(f"scale_factor {self.scale_factor} must be at least 1")


class Connector(nn.Module):
    """Image tokens to soft prompts of a language model (SmolVLM, arXiv:2504.05299, section 2.2)."""

    def __init__(self, settings: ConnectorSettings):
        super().__init__()
        self.settings = settings
        self.to_language = nn.Linear(
            settings.image_width * settings.scale_factor**2, settings.language_width, bias=False
        )

    def soft_prompts(self, image: Tensor) -> Tensor:
        """Return the soft prompts for image tokens: (B, N, Di) → (B, N / s², Dl)."""
        return self.to_language(pixel_shuffle(image, self.settings.scale_factor))


def pixel_shuffle(tokens: Tensor, scale_factor: int) -> Tensor:
    """Join each square of s × s neighbors of a square grid into one token: (B, N, D) → (B, N / s², s² · D).

    It is the inverse of the rearrangement in arXiv:1609.05158, section 3.2.
    """
    side = isqrt(tokens.shape[1]) // scale_factor
    grid = tokens.unflatten(1, (side, scale_factor, side, scale_factor))
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)
