"""CLIP's text tower as Stable Diffusion uses it: every token conditions the picture, and not the sentence as a whole.

Shapes: B batch, T text tokens, D width, E the projection.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beholder.models.text_tower import TextTransformer, TextTransformerSettings


@dataclass(frozen=True)
class PromptEncoderSettings:
    """Architecture of the tower.

    Attributes:
        text: of the tower.
        projection: E; 0 for a tower without a projection.
    """

    text: TextTransformerSettings
    projection: int = 0


class PromptEncoder(nn.Module):
    """Token ids → the tokens that a denoiser attends to, and the projected vector of the sentence."""

    def __init__(self, settings: PromptEncoderSettings):
        super().__init__()
        self.settings = settings
        self.text = TextTransformer(settings.text)
        self.projection = (
            nn.Linear(settings.text.width, settings.projection, bias=False) if settings.projection else None
        )

    def forward(self, ids: Tensor, penultimate: bool = False) -> tuple[Tensor, Tensor]:
        """Encode token ids (B, T).

        Args:
            ids: padded to the length that the denoiser was trained with, since it attends to padding, too.
            penultimate: return the tokens of the layer before the last, without a norm, as SDXL takes them
                (arXiv:2307.01952, section 2.1).

        Returns:
            Tokens (B, T, D); the pooled vector (B, E), or (B, D) without a projection.
        """
        text = self.text
        tokens = text.embedding(ids) + text.positions[: ids.shape[1]]
        for block in text.blocks[:-1]:
            tokens = block(tokens, causal=True)
        last = text.final_norm(text.blocks[-1](tokens, causal=True))
        pooled = last[torch.arange(len(ids), device=ids.device), text.pooled_position(ids)]
        return tokens if penultimate else last, pooled if self.projection is None else self.projection(pooled)
