"""The vision transformer: a picture cut into patches, read as a sentence of patches.

One network covers the original (arXiv:2010.11929) with its classification head and its hybrid form, and the image
towers of CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343) and DINOv2 (arXiv:2304.07193, registers: 2309.16588).

Shapes: B batch, N tokens (class token and registers first, then the patches row by row), D width, h × w patches.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.layers import Activation, Attention, Block, Mlp, TowerOutput

GRID_STRIDE = 32  # pixels that one grid cell of EfficientNet-Lite stands for


@dataclass(frozen=True)
class VisionSettings:
    """Which vision transformer. The defaults are the original ViT-B/16 without its classification head.

    Attributes:
        image_height, image_width: pixels that the position embeddings were trained for; others are interpolated.
        patch_size: side of a patch in pixels, or in grid cells behind a stem or a grid.
        mlp_width: hidden units of a block's MLP (of each half where ``swiglu`` is on).
        class_token: a learned token in front of the patches.
        registers: learned tokens between class token and patches, without a position.
        norm_first: a layer norm between embedding and blocks (CLIP).
        final_norm: whether the last norm sees all ``tokens`` or only the ``pooled`` vector.
        pooling: the class token, the mean of the patches, or a learned query that looks at all tokens (SigLIP).
        tanh_pooler: a dense layer and tanh after pooling, as the original has before its pre-training head.
        classes: size of the classification head; 0 for none.
        classify_mean: the head sees the pooled vector and the mean of the patches side by side (DINOv2).
        antialias: position embeddings are interpolated with antialiasing (DINOv2 with registers).
        grid: the hybrid: this convolutional network's grid cells take the place of pixels.
        stem: channels of convolutions of 3 × 3, each of which halves the picture, whose cells take the place of pixels.
            A small network learns more from few pictures with one (arXiv:2106.14881).
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
    grid: EfficientNetLiteSettings | None = None
    stem: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stem", tuple(self.stem))  # as JSON has none
        if self.stem and self.grid is not None:
            raise InvalidSetting("a stem and a grid both take the place of pixels; leave one of them out")
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
                f"{self.image_height}×{self.image_width} pixels hold no patch of {self.patch_size}×{self.patch_size}"
            )

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(h, w), the patches that the position embeddings were trained for."""
        height, width = self.image_height, self.image_width
        if self.grid is not None:
            height, width = -(-height // GRID_STRIDE), -(-width // GRID_STRIDE)
        for _ in self.stem:
            height, width = -(-height // 2), -(-width // 2)
        return height // self.patch_size, width // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens before the first patch."""
        return int(self.class_token) + self.registers


class AttentionPooling(nn.Module):
    """One learned query looks at all tokens; an MLP refines what it saw (SigLIP's MAP head, arXiv:2106.04560)."""

    def __init__(self, settings: VisionSettings):
        super().__init__()
        self.query = nn.Parameter(torch.randn(settings.width) * 0.02)
        self.attention = Attention(settings.width, settings.heads)
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.mlp = Mlp(settings.width, settings.mlp_width, settings.activation)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, D)."""
        seen = self.attention.cross_attention(self.query.expand(tokens.shape[0], 1, -1), tokens)
        return (seen + self.mlp(self.norm(seen)))[:, 0]


class Stem(nn.Sequential):
    """Convolutions that halve the picture one after the other: (B, 3, H, W) → (B, C, h, w).

    Normalised over each picture for itself, in place of the paper's batch normalisation, so that what a picture gives
    does not depend on those beside it.

    Source: Xiao et al., *Early convolutions help transformers see better* (arXiv:2106.14881).
    """

    def __init__(self, channels: tuple[int, ...]):
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, after), nn.GELU()]
        super().__init__(*layers)


class VisionTransformer(nn.Module):
    """Pixels (B, 3, H, W) of any size to ``TowerOutput``: tokens (B, N, D) and pooled (B, D)."""

    def __init__(self, settings: VisionSettings):
        super().__init__()
        self.settings = settings
        width, eps = settings.width, settings.norm_eps
        self.grid = None if settings.grid is None else EfficientNetLite(settings.grid)
        self.stem = Stem(settings.stem) if settings.stem else None
        channels = 3
        if settings.grid is not None:
            channels = settings.grid.width
        elif settings.stem:
            channels = settings.stem[-1]
        patch = settings.patch_size
        self.patches = nn.Conv2d(channels, width, patch, stride=patch, bias=settings.patch_bias)
        height, breadth = settings.patch_grid
        self.positions = nn.Parameter(torch.randn(int(settings.class_token) + height * breadth, width) * 0.02)
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
        self.attention_pooling = AttentionPooling(settings) if settings.pooling == "attention" else None
        self.tanh_pooler = nn.Linear(width, width) if settings.tanh_pooler else None
        seen = 2 * width if settings.classify_mean else width
        self.classifier = nn.Linear(seen, settings.classes) if settings.classes else None

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
        """Patches with their positions, class token and registers in front: (B, 3, H, W) → (B, N, D)."""
        cells = pixels
        if self.grid is not None:
            cells = self.grid(pixels).grid
        elif self.stem is not None:
            cells = self.stem(pixels)
        patches = self.patches(cells)  # (B, D, h, w)
        class_position, positions = self.positions_for(*patches.shape[-2:])
        tokens = patches.flatten(2).transpose(1, 2) + positions
        prefix = []
        if self.class_token is not None:
            prefix.append((self.class_token + class_position).expand(pixels.shape[0], 1, -1))
        if self.registers is not None:
            prefix.append(self.registers.expand(pixels.shape[0], -1, -1))
        return torch.cat([*prefix, tokens], dim=1)

    def positions_for(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The class token's position (1, D) or (0, D), and those of h × w patches (h·w, D), interpolated if need be."""
        class_position, positions = self.positions.tensor_split([int(self.settings.class_token)])
        if (height, width) == self.settings.patch_grid:
            return class_position, positions
        trained = positions.unflatten(0, self.settings.patch_grid).permute(2, 0, 1)[None]  # (1, D, h, w)
        # Bicubic in half precision would shift the positions visibly, so it is done in single.
        resized = F.interpolate(trained.float(), (height, width), mode="bicubic", antialias=self.settings.antialias)
        return class_position, resized[0].flatten(1).T.to(positions.dtype)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, D)."""
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
        """What ``forward`` gave → logits (B, classes)."""
        if self.classifier is None:
            raise InvalidSetting("this vision transformer has no classification head (classes = 0)")
        seen = encoded.pooled
        if self.settings.classify_mean:
            seen = torch.cat([seen, encoded.tokens[:, self.settings.prefix :].mean(dim=1)], dim=1)
        return self.classifier(seen)
