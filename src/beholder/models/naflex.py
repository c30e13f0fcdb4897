"""A vision transformer whose pictures keep their own shape: patches of variable resolution, padded to one number.

Source: the NaFlex variant of SigLIP 2 (arXiv:2502.14786, section 2.4.2), after NaViT (arXiv:2307.06304).

Shapes: B batch, N patches including padding, P side of a patch, D width, G × G trained position embeddings.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import Activation, Block, TowerOutput
from beholder.models.vit import AttentionPooling
from beholder.pictures.naflex import MARKS


@dataclass(frozen=True)
class NaFlexSettings:
    """Architecture of a NaFlex vision transformer. The defaults are those of SigLIP 2 B/16.

    Attributes:
        patch_size: P.
        num_patches: number of trained position embeddings, G²; they are resized to each picture's grid.
        mlp_width: hidden units of a layer's MLP.
    """

    patch_size: int = 16
    num_patches: int = 256
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.num_patches < 1 or self.position_grid**2 != self.num_patches:
            raise InvalidSetting(
                f"num_patches {self.num_patches} of {self.patch_size} pixels: must be the square of a positive integer"
            )

    @property
    def position_grid(self) -> int:
        """G, rows and columns of the trained position embeddings."""
        return math.isqrt(max(self.num_patches, 0))


class NaFlexTransformer(nn.Module):
    """Marked patches (B, N, 3 P² + 2) → `TowerOutput`: tokens (B, N, D), padding among them, and pooled (B, D)."""

    def __init__(self, settings: NaFlexSettings):
        super().__init__()
        self.settings = settings
        width, eps = settings.width, settings.norm_eps
        self.patches = nn.Linear(3 * settings.patch_size**2, width)
        self.positions = nn.Parameter(torch.randn(settings.num_patches, width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(width, settings.heads, settings.mlp_width, settings.activation, eps) for _ in range(settings.layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=eps)
        self.attention_pooling = AttentionPooling(width, settings.heads, settings.mlp_width, settings.activation, eps)

    def forward(self, patches: Tensor) -> TowerOutput:
        """Patches as `beholder.pictures.naflex.mark_patches` returns them, (B, N, 3 P² + 2) → (B, N, D), (B, D)."""
        values, is_patch, starts_row = patches[..., :-MARKS], patches[..., -MARKS].float(), patches[..., -1].float()
        mask = is_patch[:, None, None] > 0.5  # (B, 1, 1, N)
        tokens = self.patches(values) + self.positions_for(is_patch, starts_row)
        for block in self.blocks:
            tokens = block(tokens, mask=mask)
        tokens = self.final_norm(tokens)
        return TowerOutput(tokens, self.attention_pooling(tokens, mask))

    def positions_for(self, is_patch: Tensor, starts_row: Tensor) -> Tensor:
        """Resize the position embeddings to each picture's grid: marks (B, N) → (B, N, D).

        The result is that of bilinear interpolation with antialiasing, in float32. Padding gets the last position.
        """
        rows = starts_row.sum(-1, keepdim=True)  # (B, 1)
        columns = is_patch.sum(-1, keepdim=True) / rows
        row = starts_row.cumsum(-1) - 1  # (B, N)
        column = torch.arange(is_patch.shape[-1], device=is_patch.device) - row * columns
        column = torch.minimum(column, columns - 1)  # padding: the last place
        down, across = self._weights(row, rows), self._weights(column, columns)
        weights = (down[..., :, None] * across[..., None, :]).flatten(-2)  # (B, N, G²)
        return (weights @ self.positions.float()).to(self.positions.dtype)

    def _weights(self, place: Tensor, count: Tensor) -> Tensor:
        """Return what each trained position contributes to places 0 to ``count`` - 1 of one axis: → (B, N, G)."""
        grid = self.settings.position_grid
        scale = grid / count
        center = (place + 0.5) * scale - 0.5
        source = torch.arange(grid, device=place.device, dtype=torch.float32)
        distance = (source - center[..., None]).abs() / scale.clamp(min=1)[..., None]
        weights = (1 - distance).clamp(min=0)
        return weights / weights.sum(-1, keepdim=True)
