"""DiT: a transformer on the patches of a noisy picture that predicts the picture (arXiv:2212.09748, 2511.13720).

With ``merge``, it is an hourglass (arXiv:2401.11605): a few narrow blocks see single patches, and those in the middle
see squares of them as one token. With ``map_channels``, a map over the patches is projected from the embedding and
reshaped, as the first layer of DCGAN's generator (arXiv:1511.06434).

Shapes: B batch, S side of a picture, P side of a patch, N patches, M merged patches, K context tokens, D width, O width
of the outer blocks, C width of the condition, E the shared space.
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
        merge: side of the square of patches that are one token between the outer blocks; 1 is without such blocks.
        outer_width: O.
        outer_layers: number of blocks before merging, and of those after it.
        map_channels: of the map that is made of the embedding and added to the patches; 0 is without.
        map_hidden: hidden width of the MLP that makes it.
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
    merge: int = 1
    outer_width: int = 256
    outer_layers: int = 1
    map_channels: int = 0
    map_hidden: int = 768

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "map_channels" else 1
            if value < least:
                raise InvalidSetting(f"{name} {value} must be at least {least}")
        if self.image_size % self.patch_size:
            raise InvalidSetting(f"an image_size of {self.image_size} can't be cut into patches of {self.patch_size}")
        if self.width % self.heads:
            raise InvalidSetting(f"a width of {self.width} can't be split into {self.heads} heads")
        side, head = self.image_size // self.patch_size, self.width // self.heads
        if side % self.merge:
            raise InvalidSetting(f"{side} × {side} patches can't be merged by {self.merge} × {self.merge}")
        if self.merge > 1 and self.outer_width % head:
            raise InvalidSetting(f"an outer_width of {self.outer_width} can't be split into heads of {head} numbers")

    @property
    def patches(self) -> int:
        """N, the number of patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


class AdaptiveBlock(nn.Module):
    """A transformer layer whose norms and gates follow from the condition (adaLN-zero)."""

    def __init__(self, width: int, heads: int, mlp_width: int, condition_width: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = Mlp(width, mlp_width, "gelu")
        self.modulation = Modulation(condition_width, width, 6)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, N, D), condition (B, C) → (B, N, D)."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (part[:, None] for part in self.modulation(condition))
        tokens = tokens + gate * self.attention(modulate(self.norm_attention(tokens), shift, scale))
        return tokens + gate_mlp * self.mlp(modulate(self.norm_mlp(tokens), shift_mlp, scale_mlp))


class EmbeddingMap(nn.Module):
    """A map over the patches, made of the embedding alone, and the picture that it shows by itself."""

    def __init__(self, settings: DiffusionTransformerSettings, width: int):
        super().__init__()
        self.settings = settings
        self.up = nn.Linear(settings.embedding, settings.map_hidden)
        self.down = nn.Linear(settings.map_hidden, settings.patches * settings.map_channels)
        self.to_tokens = nn.Linear(settings.map_channels, width)
        self.to_pixels = nn.Linear(settings.map_channels, 3 * settings.patch_size**2)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, E) → (B, N, O)."""
        return self.to_tokens(self._map(embedding))

    def picture(self, embedding: Tensor) -> Tensor:
        """(B, E) → (B, 3, S, S), about the mean of the pictures that have this embedding."""
        return unpatchify(self.to_pixels(self._map(embedding)), self.settings.patch_size)

    def _map(self, embedding: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(embedding))).unflatten(1, (self.settings.patches, -1))


class Hourglass(nn.Module):
    """Narrow blocks on the patches, around wide ones on squares of them (arXiv:2401.11605)."""

    def __init__(self, settings: DiffusionTransformerSettings):
        super().__init__()
        self.settings = settings
        width = settings.outer_width
        heads = width // (settings.width // settings.heads)
        sizes = (width, heads, 4 * width, settings.condition_width)
        self.before = nn.ModuleList(AdaptiveBlock(*sizes) for _ in range(settings.outer_layers))
        self.after = nn.ModuleList(AdaptiveBlock(*sizes) for _ in range(settings.outer_layers))
        self.merge = nn.Linear(settings.merge**2 * width, settings.width)
        self.split = nn.Linear(settings.width, settings.merge**2 * width)

    def enter(self, patches: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, N, O), condition (B, C) → what `leave` takes (B, N, O), and tokens for the middle (B, M, D)."""
        for block in self.before:
            patches = block(patches, condition)
        return patches, self.merge(merge_patches(patches, self.settings.merge))

    def leave(self, patches: Tensor, merged: Tensor, condition: Tensor) -> Tensor:
        """Patches (B, N, O), what the middle made of the tokens (B, M, D), condition (B, C) → (B, N, O)."""
        patches = patches + split_patches(self.split(merged), self.settings.merge)
        for block in self.after:
            patches = block(patches, condition)
        return patches


class DiffusionTransformer(nn.Module):
    """A noisy picture, a time and an embedding → the picture.

    Without an embedding, a learned vector takes its place, as classifier-free guidance needs it.
    """

    def __init__(self, settings: DiffusionTransformerSettings):
        super().__init__()
        self.settings = settings
        width, condition, values = settings.width, settings.condition_width, 3 * settings.patch_size**2
        outer = settings.outer_width if settings.merge > 1 else width
        self.patch_embedding = nn.Linear(values, outer)
        self.positions = nn.Parameter(torch.randn(settings.patches, outer) * 0.02)
        self.unconditional = nn.Parameter(torch.randn(settings.embedding) * 0.02)
        self.time = TimeEmbedding(condition)
        self.condition = Mlp(settings.embedding, condition, "gelu")
        self.condition.down = nn.Linear(condition, condition)
        self.context = nn.Linear(settings.embedding, settings.context_tokens * width)
        self.map = EmbeddingMap(settings, outer) if settings.map_channels else None
        self.hourglass = Hourglass(settings) if settings.merge > 1 else None
        sizes = (width, settings.heads, settings.mlp_width, condition)
        self.blocks = nn.ModuleList(AdaptiveBlock(*sizes) for _ in range(settings.layers))
        self.final_norm = nn.LayerNorm(outer, eps=NORM_EPS, elementwise_affine=False)
        self.final_modulation = Modulation(condition, outer, 2)
        self.to_pixels = nn.Linear(outer, values)
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
        if self.map is not None:
            patches = patches + self.map(embedding)
        tokens = patches
        if self.hourglass is not None:
            patches, tokens = self.hourglass.enter(patches, condition)
        context = self.context(embedding).unflatten(1, (self.settings.context_tokens, -1))
        tokens = torch.cat([context, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, condition)
        tokens = tokens[:, self.settings.context_tokens :]
        patches = tokens if self.hourglass is None else self.hourglass.leave(patches, tokens, condition)
        shift, scale = (part[:, None] for part in self.final_modulation(condition))
        return unpatchify(self.to_pixels(modulate(self.final_norm(patches), shift, scale)), self.settings.patch_size)


def merge_patches(patches: Tensor, size: int) -> Tensor:
    """Put squares of patches side by side: (B, N, O) → (B, M, size · size · O), row by row."""
    side = math.isqrt(patches.shape[1])
    grid = patches.unflatten(1, (side // size, size, side // size, size))
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)


def split_patches(merged: Tensor, size: int) -> Tensor:
    """Undo `merge_patches`: (B, M, size · size · O) → (B, N, O)."""
    side = math.isqrt(merged.shape[1])
    grid = merged.unflatten(1, (side, side)).unflatten(3, (size, size, -1))
    return grid.transpose(2, 3).flatten(1, 4)


def patchify(pixels: Tensor, size: int) -> Tensor:
    """Cut pictures (B, 3, S, S) into patches (B, N, 3 · P · P), row by row."""
    return F.unfold(pixels, size, stride=size).transpose(1, 2)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """Put patches (B, N, 3 · P · P) together again: (B, 3, S, S)."""
    side = math.isqrt(patches.shape[1]) * size
    return F.fold(patches.transpose(1, 2).float(), side, size, stride=size)
