"""EfficientNet-Lite: a small convolutional network, used as an image tower by its last feature map.

Source: Tan and Le, *EfficientNet* (arXiv:1905.11946), table 1, in the "Lite" variant of the TensorFlow authors: no
squeeze-and-excitation, ReLU6 in place of swish, stem and head not scaled with the width.

Shapes: B batch, H and W pixels, h and w cells of the last feature map (H / 32 and W / 32, rounded up), D width (1280).
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from beholder.errors import InvalidSetting

# One row per stage: repeats, kernel, stride, expansion, output channels (before scaling).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
STRIDE = 32  # pixels per cell of the last feature map


@dataclass(frozen=True)
class EfficientNetLiteSettings:
    """Architecture of an EfficientNet-Lite. The defaults are those of Lite2 (260×260 pixels).

    Lite0 to Lite4 have (width_scale, depth_scale) of (1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8).
    """

    width_scale: float = 1.1
    depth_scale: float = 1.2
    classes: int = 1000
    norm_eps: float = 1e-3

    @property
    def width(self) -> int:
        """D, channels of the last feature map."""
        return HEAD_CHANNELS

    def channels(self, unscaled: int) -> int:
        """Return the scaled number of channels: a multiple of 8, at most a tenth below the exact product."""
        scaled = unscaled * self.width_scale
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    def repeats(self, stage: int) -> int:
        """Return the number of blocks in a stage; the first and the last stage are not scaled."""
        unscaled = STAGES[stage][0]
        return unscaled if stage in (0, len(STAGES) - 1) else ceil(unscaled * self.depth_scale)


class GridFeatures(NamedTuple):
    """The last feature map ``grid`` (B, D, h, w) and its spatial mean ``pooled`` (B, D)."""

    grid: Tensor
    pooled: Tensor


class Conv2dSame(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the output is input / stride in size, an odd pixel pads the end."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        pads: list[int] = []
        for axis in (1, 0):  # F.pad starts at the last axis
            size, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            missing = max((ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


def conv_bn(inputs: int, outputs: int, kernel: int, eps: float, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias followed by batch normalization."""
    return nn.Sequential(
        Conv2dSame(inputs, outputs, kernel, stride=stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=eps, momentum=0.01),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1×1 expansion, depthwise convolution, 1×1 projection; residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, eps: float):
        super().__init__()
        inner = inputs * expansion
        self.expand = conv_bn(inputs, inner, 1, eps) if expansion > 1 else None
        self.depthwise = conv_bn(inner, inner, kernel, eps, stride, groups=inner)
        self.project = conv_bn(inner, outputs, 1, eps)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        inner = x if self.expand is None else F.relu6(self.expand(x))
        inner = F.relu6(self.depthwise(inner))
        narrow: Tensor = self.project(inner)
        return x + narrow if self.residual else narrow


class EfficientNetLite(nn.Module):
    """Pixels (B, 3, H, W), scaled as (value - 127) / 128, → `GridFeatures`; ``classify`` → ImageNet logits."""

    def __init__(self, settings: EfficientNetLiteSettings):
        super().__init__()
        self.settings = settings
        eps = settings.norm_eps
        self.stem = conv_bn(3, STEM_CHANNELS, 3, eps, stride=2)
        blocks: list[nn.Module] = []
        inputs = STEM_CHANNELS
        for stage, (_, kernel, stride, expansion, unscaled) in enumerate(STAGES):
            outputs = settings.channels(unscaled)
            for repeat in range(settings.repeats(stage)):
                first = repeat == 0
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if first else 1, expansion, eps))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_bn(inputs, HEAD_CHANNELS, 1, eps)
        self.classifier = nn.Linear(HEAD_CHANNELS, settings.classes) if settings.classes else None

    def forward(self, pixels: Tensor) -> GridFeatures:
        """(B, 3, H, W) → grid (B, D, h, w) and pooled (B, D)."""
        grid = F.relu6(self.head(self.blocks(F.relu6(self.stem(pixels)))))
        return GridFeatures(grid, grid.mean(dim=(2, 3)))

    def classify(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, D) → logits (B, classes)."""
        if self.classifier is None:
            raise InvalidSetting("this network has no classification head (classes = 0)")
        logits: Tensor = self.classifier(pooled)
        return logits

    @torch.no_grad()
    def folded(self) -> "EfficientNetLite":
        """Fold each batch normalization into the convolution before it, in place, for inference."""
        for module in self.modules():
            if not isinstance(module, nn.Sequential) or len(module) != 2:
                continue
            conv, norm = module
            if isinstance(conv, Conv2dSame) and isinstance(norm, nn.BatchNorm2d):
                module[0] = fuse_conv_bn_eval(conv, norm)
                module[1] = nn.Identity()
        return self
