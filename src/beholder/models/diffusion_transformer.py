"""DiT: a transformer on the patches of a noisy picture that predicts the picture (arXiv:2212.09748, 2511.13720).

Shapes: B batch, S side of a picture, P side of a patch, N patches, K context tokens, D width, C width of the condition,
E the shared space.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.adaptive_norm import Modulation, TimeEmbedding, modulate
from beholder.models.layers import Attention, Mlp

NORM_EPS = 1e-6


@dataclass(frozen=True)
class DiffusionTransformerSettings:
    """Architecture of the decoder.

    Attributes:
        embedding: E, the size of the embedding that it draws.
        image_size: S, the side of its pictures.
        patch_size: P.
        width: D.
        layers: number of blocks.
        heads: of attention.
        mlp_width: hidden width of a block's MLP.
        condition_width: C.
        context_tokens: K, the number of tokens made of the embedding, to which the patches attend.
    """

    embedding: int
    image_size: int = 64
    patch_size: int = 8
    width: int = 320
    layers: int = 10
    heads: int = 5
    mlp_width: int = 1280
    condition_width: int = 128
    context_tokens: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InvalidSetting(f"{name} {value} must be at least 1")
        if self.image_size % self.patch_size:
            raise InvalidSetting(f"an image_size of {self.image_size} can't be cut into patches of {self.patch_size}")
        if self.width % self.heads:
            raise InvalidSetting(f"a width of {self.width} can't be split into {self.heads} heads")

    @property
    def patches(self) -> int:
        """N, the number of patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


class AdaptiveBlock(nn.Module):
    """A transformer layer whose norms and gates follow from the condition (adaLN-zero)."""

    def __init__(self, settings: DiffusionTransformerSettings):
        super().__init__()
        width = settings.width
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attention = Attention(width, settings.heads)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = Mlp(width, settings.mlp_width, "gelu")
        self.modulation = Modulation(settings.condition_width, width, 6)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, N, D), condition (B, C) → (B, N, D)."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (part[:, None] for part in self.modulation(condition))
        tokens = tokens + gate * self.attention(modulate(self.norm_attention(tokens), shift, scale))
        return tokens + gate_mlp * self.mlp(modulate(self.norm_mlp(tokens), shift_mlp, scale_mlp))


class DiffusionTransformer(nn.Module):
    """A noisy picture, a time and an embedding → the picture.

    Without an embedding, a learned vector takes its place, as classifier-free guidance needs it.
    """

    def __init__(self, settings: DiffusionTransformerSettings):
        super().__init__()
        self.settings = settings
        width, values = settings.width, 3 * settings.patch_size**2
        self.patch_embedding = nn.Linear(values, width)
        self.positions = nn.Parameter(torch.randn(settings.patches, width) * 0.02)
        self.unconditional = nn.Parameter(torch.randn(settings.embedding) * 0.02)
        self.time = TimeEmbedding(settings.condition_width)
        self.condition = Mlp(settings.embedding, settings.condition_width, "gelu")
        self.condition.down = nn.Linear(settings.condition_width, settings.condition_width)
        self.context = nn.Linear(settings.embedding, settings.context_tokens * width)
        self.blocks = nn.ModuleList(AdaptiveBlock(settings) for _ in range(settings.layers))
        self.final_norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.final_modulation = Modulation(settings.condition_width, width, 2)
        self.to_pixels = nn.Linear(width, values)
        nn.init.zeros_(self.to_pixels.weight)
        nn.init.zeros_(self.to_pixels.bias)

    def forward(self, noisy: Tensor, time: Tensor, embedding: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Predict pictures.

        Args:
            noisy: (B, 3, S, S).
            time: (B,), 0 for noise, 1 for the picture.
            embedding: (B, E), centered and scaled.
            dropped: (B,), true where the embedding is to be left out.

        Returns:
            (B, 3, S, S), -1 to 1.
        """
        if dropped is not None:
            embedding = torch.where(dropped[:, None], self.unconditional, embedding)
        condition = F.silu(self.time(time) + self.condition(embedding))
        patches = self.patch_embedding(patchify(noisy, self.settings.patch_size)) + self.positions
        context = self.context(embedding).unflatten(1, (self.settings.context_tokens, -1))
        tokens = torch.cat([context, patches], dim=1)  # (B, K + N, D)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = (part[:, None] for part in self.final_modulation(condition))
        patches = self.to_pixels(modulate(self.final_norm(tokens[:, -self.settings.patches :]), shift, scale))
        return unpatchify(patches, self.settings.patch_size)


def patchify(pixels: Tensor, size: int) -> Tensor:
    """Cut pictures (B, 3, S, S) into patches (B, N, 3 · P · P), row by row."""
    return F.unfold(pixels, size, stride=size).transpose(1, 2)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """Put patches (B, N, 3 · P · P) together again: (B, 3, S, S)."""
    side = math.isqrt(patches.shape[1]) * size
    return F.fold(patches.transpose(1, 2).float(), side, size, stride=size)
