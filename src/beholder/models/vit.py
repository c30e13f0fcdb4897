"""The vision transformer: an image as a sequence of patches.

One network covers the original (arXiv:2010.11929) with its classification head, and the image towers of
 CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343) and DINOv2 (arXiv:2304.07193, registers: 2309.16588).

Shapes: B batch, N tokens (class token and registers first, then the patches row by row), D width, h × w patches.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import Activation, Attention, Block, Mlp, TowerOutput


@dataclass(frozen=True)
class VisionSettings:
    """Architecture of a vision transformer. The defaults are those of ViT-B/16 without its classification head.

    Attributes:
        image_height, image_width: pixels that the position embeddings were trained for; for other sizes they are
            interpolated.
        patch_size: side of a patch in pixels, or in cells of the stem's output.
        mlp_width: hidden units of a layer's MLP (of each half with ``swiglu``).
        class_token: whether a learned token precedes the patches.
        registers: number of learned tokens between class token and patches, without position embeddings.
        norm_first: a layer norm between patch embedding and layers (CLIP's ``pre_layrnorm``).
        final_norm: whether the final norm applies to all ``tokens`` or only to the ``pooled`` vector.
        pooling: the class token, the mean of the patches, or a learned query that attends to all tokens (SigLIP).
        tanh_pooler: a linear layer and tanh after pooling, as in the original before its pre-training head.
        classes: size of the classification head; 0 for none.
        classify_mean: the classification head reads the pooled vector concatenated with the mean of the patches
            (DINOv2).
        antialias: interpolate position embeddings with antialiasing (DINOv2 with registers).
        stem: output channels of 3 × 3 convolutions with stride 2 that precede the patch embedding. Small networks
            learn better from few images with one (arXiv:2106.14881).
    """

    image_height: int = 224
    image_width: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: Activation = "gelu"
    norm_eps: float = 1e-6
    patch_bias: bool = True
    qkv_bias: bool = True
    class_token: bool = True
    registers: int = 0
    norm_first: bool = False
    final_norm: Literal["tokens", "pooled"] = "tokens"
    pooling: Literal["class", "mean", "attention"] = "class"
    tanh_pooler: bool = False
    swiglu: bool = False
    layer_scale: bool = False
    classes: int = 0
    classify_mean: bool = False
    antialias: bool = False
    stem: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stem", tuple(self.stem))  # JSON has lists only
        if any(channels < 1 for channels in self.stem):
            raise InvalidSetting(f"stem {list(self.stem)}: channels must be at least 1")
        if self.pooling not in ("class", "mean", "attention"):
            raise InvalidSetting(f"pooling {self.pooling!r} is none of class, mean, attention")
        if self.final_norm not in ("tokens", "pooled"):
            raise InvalidSetting(f"final_norm {self.final_norm!r} is neither tokens nor pooled")
        if self.pooling == "class" and not self.class_token:
            raise InvalidSetting('pooling "class" needs a class token')
        if min(self.patch_grid) < 1:
            raise InvalidSetting(
                f"{self.image_height}×{self.image_width} pixels are fewer than one patch "
                f"of {self.patch_size}×{self.patch_size}"
            )

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(h, w), number of patches that the position embeddings were trained for."""
        return self.patch_grid_of(self.image_height, self.image_width)

    def patch_grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return (h, w), number of patches of an image of ``height`` × ``width`` pixels."""
        for _ in self.stem:
            height, width = -(-height // 2), -(-width // 2)
        return height // self.patch_size, width // self.patch_size

    @property
    def prefix(self) -> int:
        """Number of tokens before the first patch."""
        return int(self.class_token) + self.registers


class AttentionPooling(nn.Module):
    """Multi-head attention pooling with one learned query, followed by an MLP (SigLIP's MAP head, arXiv:2106.04560)."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: Activation, norm_eps: float):
        super().__init__()
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_width, activation)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) → (B, D); ``mask`` (B, 1, 1, N) is true where attention is allowed."""
        pooled = self.attention.cross_attention(self.query.expand(tokens.shape[0], 1, -1), tokens, mask)
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class Stem(nn.Sequential):
    """A stack of convolutions with stride 2: (B, 3, H, W) → (B, C, h, w).

    Group normalization replaces the paper's batch normalization, so that the output for an image does not depend on
    the rest of the batch.

    Source: Xiao et al., *Early convolutions help transformers see better* (arXiv:2106.14881).
    """

    def __init__(self, channels: tuple[int, ...]):
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, after), nn.GELU()]
        super().__init__(*layers)


class VisionTransformer(nn.Module):
    """Pixels (B, 3, H, W) of any size → `TowerOutput`: tokens (B, N, D) and pooled (B, D)."""

    def __init__(self, settings: VisionSettings):
        super().__init__()
        self.settings = settings
        width, eps = settings.width, settings.norm_eps
        self.stem = Stem(settings.stem) if settings.stem else None
        channels = settings.stem[-1] if settings.stem else 3
        patch = settings.patch_size
        self.patches = nn.Conv2d(channels, width, patch, stride=patch, bias=settings.patch_bias)
        rows, columns = settings.patch_grid
        self.positions = nn.Parameter(torch.randn(int(settings.class_token) + rows * columns, width) * 0.02)
        self.class_token = nn.Parameter(torch.randn(width) * 0.02) if settings.class_token else None
        self.registers = nn.Parameter(torch.randn(settings.registers, width) * 0.02) if settings.registers else None
        self.norm_first = nn.LayerNorm(width, eps=eps) if settings.norm_first else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                settings.heads,
                settings.mlp_width,
                settings.activation,
                eps,
                qkv_bias=settings.qkv_bias,
                swiglu=settings.swiglu,
                layer_scale=settings.layer_scale,
            )
            for _ in range(settings.layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=eps)
        pooling = settings.heads, settings.mlp_width, settings.activation, eps
        self.attention_pooling = AttentionPooling(width, *pooling) if settings.pooling == "attention" else None
        self.tanh_pooler = nn.Linear(width, width) if settings.tanh_pooler else None
        features = 2 * width if settings.classify_mean else width
        self.classifier = nn.Linear(features, settings.classes) if settings.classes else None

    def forward(self, pixels: Tensor) -> TowerOutput:
        """(B, 3, H, W) → tokens (B, N, D), pooled (B, D)."""
        tokens = self.embed_patches(pixels)
        if self.norm_first is not None:
            tokens = self.norm_first(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        if self.settings.final_norm == "tokens":
            tokens = self.final_norm(tokens)
        return TowerOutput(tokens, self.pool(tokens))

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Embed class token, registers and patches with their positions: (B, 3, H, W) → (B, N, D)."""
        patches = self.patches(pixels if self.stem is None else self.stem(pixels))  # (B, D, h, w)
        class_position, positions = self.positions_for(*patches.shape[-2:])
        tokens = patches.flatten(2).transpose(1, 2) + positions
        prefix = []
        if self.class_token is not None:
            prefix.append((self.class_token + class_position).expand(pixels.shape[0], 1, -1))
        if self.registers is not None:
            prefix.append(self.registers.expand(pixels.shape[0], -1, -1))
        return torch.cat([*prefix, tokens], dim=1)

    def positions_for(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return position embeddings of the class token, (1, D) or (0, D), and of h × w patches (h·w, D).

        They are interpolated where h × w differs from the size in training.
        """
        class_position, positions = self.positions.tensor_split([int(self.settings.class_token)])
        if (height, width) == self.settings.patch_grid:
            return class_position, positions
        trained = positions.unflatten(0, self.settings.patch_grid).permute(2, 0, 1)[None]  # (1, D, h, w)
        # In float32: bicubic interpolation in half precision would shift the positions noticeably.
        resized = F.interpolate(trained.float(), (height, width), mode="bicubic", antialias=self.settings.antialias)
        return class_position, resized[0].flatten(1).T.to(positions.dtype)

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool tokens: (B, N, D) → (B, D)."""
        match self.settings.pooling:
            case "class":
                pooled = tokens[:, 0]
            case "mean":
                pooled = tokens[:, self.settings.prefix :].mean(dim=1)
            case "attention":
                pooled = self.attention_pooling(tokens)  # type: ignore[misc]
        if self.settings.final_norm == "pooled":
            pooled = self.final_norm(pooled)
        return pooled if self.tanh_pooler is None else torch.tanh(self.tanh_pooler(pooled))

    def classify(self, encoded: TowerOutput) -> Tensor:
        """Classify the output of ``forward``: → logits (B, classes)."""
        if self.classifier is None:
            raise InvalidSetting("this vision transformer has no classification head (classes = 0)")
        features = encoded.pooled
        if self.settings.classify_mean:
            features = torch.cat([features, encoded.tokens[:, self.settings.prefix :].mean(dim=1)], dim=1)
        return self.classifier(features)
