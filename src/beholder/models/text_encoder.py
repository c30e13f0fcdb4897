"""A text tower with its projection into the space of a dual encoder.

Shapes: B batch, T text tokens, E the shared space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from beholder.models.dual_encoder import (
    LINEAR,
    TEXT_TOWERS,
    TextSettings,
    read_head,
    read_settings,
    read_tower,
    saved_head,
    saved_text_tower,
    tower_kind,
)
from beholder.models.layers import Head, HeadSettings


@dataclass(frozen=True)
class TextEncoderSettings:
    """Architecture of a text tower, its head, and E, the size of the space that it embeds into."""

    text: TextSettings
    embedding: int
    text_head: HeadSettings = LINEAR

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as `TwoTowersSettings.to_dict`."""
        return {
            "text": saved_text_tower(self.text),
            "embedding": self.embedding,
            "text_head": saved_head(self.text_head),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "TextEncoderSettings":
        """Build the settings from the values that `to_dict` returned.

        Raises:
            InvalidSetting: a key or the tower's kind is missing or unknown.
        """
        values = {**saved, "text": read_tower(TEXT_TOWERS, "text", saved)}
        if "text_head" in values:
            values["text_head"] = read_head(values["text_head"])
        return read_settings(cls, values)


class TextEncoder(nn.Module):
    """Texts → unit vectors in the space of a dual encoder."""

    def __init__(self, settings: TextEncoderSettings):
        super().__init__()
        self.settings = settings
        self.text = TEXT_TOWERS[tower_kind(TEXT_TOWERS, settings.text)][1](settings.text)
        self.text_head = Head(settings.text_head, settings.text.width, settings.embedding)

    def embed_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids (B, T), mask (B, T) false at padding → (B, E), float32, unit length."""
        return F.normalize(self.text_head(self.text(ids, mask).pooled).float(), dim=-1)
