"""Tensor names of the EfficientNet-Lite files that belong to the package ``efficientnet-lite-pytorch``, and ours.

Source: the state dictionary of ``efficientnet-lite2-9656183e.pth``.
"""

from beholder.weights.table import Row

ROWS = (
    Row("stem.0.*", "_conv_stem.*"),
    Row("stem.1.*", "_bn0.*"),
    Row("blocks.*.expand.0.*", "_blocks.*._expand_conv.*"),
    Row("blocks.*.expand.1.*", "_blocks.*._bn0.*"),
    Row("blocks.*.depthwise.0.*", "_blocks.*._depthwise_conv.*"),
    Row("blocks.*.depthwise.1.*", "_blocks.*._bn1.*"),
    Row("blocks.*.project.0.*", "_blocks.*._project_conv.*"),
    Row("blocks.*.project.1.*", "_blocks.*._bn2.*"),
    Row("head.0.*", "_conv_head.*"),
    Row("head.1.*", "_bn1.*"),
    Row("classifier.*", "_fc.*"),
)
