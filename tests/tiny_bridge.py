"""A tiny random bridge between an image tower of width 16 and a language model of width 32."""

import torch

from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.qformer import QFormerSettings


def build(dropout: float = 0.1) -> Bridge:
    """Build the bridge with reproducible random weights."""
    torch.manual_seed(0)
    qformer = QFormerSettings(
        queries=3,
        width=16,
        layers=2,
        heads=2,
        mlp_width=24,
        image_width=16,
        vocabulary=30,
        max_position_embeddings=12,
        dropout=dropout,
    )
    return Bridge(BridgeSettings(qformer, embedding=8, language_width=32))
