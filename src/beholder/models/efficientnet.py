"""EfficientNet as an image tower: ALIGN's (arXiv:2102.05918).

Source: Tan and Le, *EfficientNet* (arXiv:1905.11946), table 1, without the last 1×1 convolution and the classifier. The
padding is that of transformers' port, whose inputs have a fixed size.

Shapes: B batch, H and W pixels, h and w cells of the last feature map, D width.
"""

from dataclasses import dataclass, fields
from math import ceil

import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.efficientnet_lite import GridFeatures

STEM_CHANNELS = 32


@dataclass(frozen=True)
class EfficientNetSettings:
    """Architecture of an EfficientNet. The defaults are those of B7 (600×600 pixels). Tuples have one value per stage.

    Attributes:
        width_scale, depth_scale: by which channels and repeats are multiplied.
        divisor: of which the numbers of channels are multiples.
        kernels, strides: of the depthwise convolutions; a stage's stride is that of its first block.
        in_channels, out_channels: before scaling.
        repeats: blocks of a stage, before scaling.
        expansions: by which a block's first convolution multiplies its channels.
        squeeze_ratio: channels of squeeze-and-excitation relative to a block's input.
        symmetric_padding: numbers of the blocks with stride 2 that are padded alike on all sides; others get one pixel
            less at the top and on the left.
    """

    width_scale: float = 2.0
    depth_scale: float = 3.1
    divisor: int = 8
    kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    in_channels: tuple[int, ...] = (32, 16, 24, 40, 80, 112, 192)
    out_channels: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    repeats: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    squeeze_ratio: float = 0.25
    symmetric_padding: tuple[int, ...] = ()
    norm_eps: float = 1e-3

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(field.default, tuple):  # JSON has lists only
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        stages = {len(each) for each in (self.kernels, self.strides, self.in_channels, self.out_channels)}
        if len(stages | {len(self.repeats), len(self.expansions)}) > 1 or 0 in stages:
            raise InvalidSetting("kernels, strides, channels, repeats and expansions must have one value per stage")

    @property
    def width(self) -> int:
        """D, channels of the last feature map."""
        return self.channels(self.out_channels[-1])

    def channels(self, unscaled: int) -> int:
        """Return the scaled number of channels: a multiple of ``divisor``, at most a tenth below the exact product."""
        scaled = unscaled * self.width_scale
        rounded = max(self.divisor, int(scaled + self.divisor / 2) // self.divisor * self.divisor)
        return rounded + self.divisor if rounded < 0.9 * scaled else rounded


def conv_norm(inputs: int, outputs: int, kernel: int, eps: float, **options: int | str) -> nn.Sequential:
    """Return a convolution without bias followed by batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=eps))


class SqueezeExcitation(nn.Module):
    """Channels weighted by a gate that is computed from their means (arXiv:1709.01507)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        gate = self.expand(F.silu(self.reduce(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        return x * gate


class MBConv(nn.Module):
    """The mobile inverted bottleneck with squeeze-and-excitation; residual unless it is the first block of a stage."""

    def __init__(
        self, settings: EfficientNetSettings, stage: int, inputs: int, stride: int, residual: bool, symmetric: bool
    ):
        super().__init__()
        kernel, expansion, eps = settings.kernels[stage], settings.expansions[stage], settings.norm_eps
        inner, outputs = inputs * expansion, settings.channels(settings.out_channels[stage])
        before = kernel // 2 if symmetric else kernel // 2 - 1
        self.padding = (before, kernel // 2) * 2 if stride == 2 else None
        self.expand = conv_norm(inputs, inner, 1, eps) if expansion != 1 else None
        same = kernel // 2 if self.padding is None else 0
        self.depthwise = conv_norm(inner, inner, kernel, eps, stride=stride, padding=same, groups=inner)
        self.squeeze_excitation = SqueezeExcitation(inner, max(1, int(inputs * settings.squeeze_ratio)))
        self.project = conv_norm(inner, outputs, 1, eps)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        inner = x if self.expand is None else F.silu(self.expand(x))
        if self.padding is not None:
            inner = F.pad(inner, self.padding)
        inner = F.silu(self.depthwise(inner))
        narrow: Tensor = self.project(self.squeeze_excitation(inner))
        return x + narrow if self.residual else narrow


class EfficientNet(nn.Module):
    """Pixels (B, 3, H, W) → `GridFeatures`."""

    def __init__(self, settings: EfficientNetSettings):
        super().__init__()
        self.settings = settings
        self.stem = conv_norm(3, settings.channels(STEM_CHANNELS), 3, settings.norm_eps, stride=2)
        blocks: list[nn.Module] = []
        for stage, repeats in enumerate(settings.repeats):
            inputs = settings.channels(settings.in_channels[stage])
            for repeat in range(ceil(settings.depth_scale * repeats)):
                first = repeat == 0
                stride = settings.strides[stage] if first else 1
                symmetric = len(blocks) in settings.symmetric_padding
                residual = not first and stride == 1
                blocks.append(MBConv(settings, stage, inputs, stride, residual, symmetric))
                inputs = settings.channels(settings.out_channels[stage])
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> GridFeatures:
        """(B, 3, H, W) → grid (B, D, h, w) and pooled (B, D)."""
        grid = F.silu(self.stem(F.pad(pixels, (0, 1, 0, 1))))
        for block in self.blocks:
            grid = block(grid)
        return GridFeatures(grid, grid.mean(dim=(2, 3)))
