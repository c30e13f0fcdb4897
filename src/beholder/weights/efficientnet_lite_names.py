"""Tensor names of the EfficientNet-Lite files of the package ``efficientnet-lite-pytorch``, and ours.

Source: the state dictionary of ``efficientnet-lite2-9656183e.pth``.
"""

import re
from collections.abc import Mapping

from torch import Tensor

# One row per pattern; the first that matches renames.
TABLE = (
    (r"_conv_stem\.(.*)", r"stem.0.\1"),
    (r"_bn0\.(.*)", r"stem.1.\1"),
    (r"_blocks\.(\d+)\._expand_conv\.(.*)", r"blocks.\1.expand.0.\2"),
    (r"_blocks\.(\d+)\._bn0\.(.*)", r"blocks.\1.expand.1.\2"),
    (r"_blocks\.(\d+)\._depthwise_conv\.(.*)", r"blocks.\1.depthwise.0.\2"),
    (r"_blocks\.(\d+)\._bn1\.(.*)", r"blocks.\1.depthwise.1.\2"),
    (r"_blocks\.(\d+)\._project_conv\.(.*)", r"blocks.\1.project.0.\2"),
    (r"_blocks\.(\d+)\._bn2\.(.*)", r"blocks.\1.project.1.\2"),
    (r"_conv_head\.(.*)", r"head.0.\1"),
    (r"_bn1\.(.*)", r"head.1.\1"),
    (r"_fc\.(.*)", r"classifier.\1"),
)
