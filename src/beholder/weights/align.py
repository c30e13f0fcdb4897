"""Hugging Face's ALIGN (``AlignModel``, arXiv:2102.05918): an EfficientNet and BERT."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.efficientnet import EfficientNetSettings
from beholder.models.layers import HeadSettings
from beholder.weights import bert
from beholder.weights.huggingface import section
from beholder.weights.table import Row
from beholder.weights.transformers_layout import TransformersLayout

TEXT_DEFAULTS = {name: value for name, value in bert.DEFAULTS.items() if name != "position_embedding_type"}
VISION_DEFAULTS = {
    "num_channels": 3,
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "depth_divisor": 8,
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "depthwise_padding": [],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "num_block_repeats": [1, 2, 2, 3, 3, 4, 1],
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
    "squeeze_expansion_ratio": 0.25,
    "hidden_act": "swish",
    "pooling_type": "mean",
    "batch_norm_eps": 0.001,
}
EXPECTED = {"num_channels": (3,), "hidden_act": ("swish", "silu"), "pooling_type": ("mean",)}
PROJECTION_DEFAULT = 640
TEMPERATURE = "temperature"

ROWS = (
    Row("image.stem.0.*", "vision_model.embeddings.convolution.*"),
    Row("image.stem.1.*", "vision_model.embeddings.batchnorm.*"),
    Row("image.blocks.*.expand.0.*", "vision_model.encoder.blocks.*.expansion.expand_conv.*"),
    Row("image.blocks.*.expand.1.*", "vision_model.encoder.blocks.*.expansion.expand_bn.*"),
    Row("image.blocks.*.depthwise.0.*", "vision_model.encoder.blocks.*.depthwise_conv.depthwise_conv.*"),
    Row("image.blocks.*.depthwise.1.*", "vision_model.encoder.blocks.*.depthwise_conv.depthwise_norm.*"),
    Row("image.blocks.*.squeeze_excitation.*.*", "vision_model.encoder.blocks.*.squeeze_excite.*.*"),
    Row("image.blocks.*.project.0.*", "vision_model.encoder.blocks.*.projection.project_conv.*"),
    Row("image.blocks.*.project.1.*", "vision_model.encoder.blocks.*.projection.project_bn.*"),
    *bert.rows("text.", "text_model."),
    Row("text_head.linear.*", "text_projection.*"),
    Row("logit_scale", TEMPERATURE),
)


def settings(config: Mapping[str, Any]) -> TwoTowersSettings:
    """Return the settings of the dual encoder that a ``config.json`` describes."""
    vision = section(config, "vision_config", VISION_DEFAULTS)
    for name, known in EXPECTED.items():
        if vision[name] not in known:
            raise ModelError(f"the config has {name} {vision[name]!r} in vision_config; known is {known[0]!r}")
    return TwoTowersSettings(
        image=EfficientNetSettings(
            width_scale=vision["width_coefficient"],
            depth_scale=vision["depth_coefficient"],
            divisor=vision["depth_divisor"],
            kernels=vision["kernel_sizes"],
            strides=vision["strides"],
            in_channels=vision["in_channels"],
            out_channels=vision["out_channels"],
            repeats=vision["num_block_repeats"],
            expansions=vision["expand_ratios"],
            squeeze_ratio=vision["squeeze_expansion_ratio"],
            symmetric_padding=vision["depthwise_padding"],
            norm_eps=vision["batch_norm_eps"],
        ),
        text=bert.settings(section(config, "text_config", TEXT_DEFAULTS), pooling="first"),
        embedding=config.get("projection_dim", PROJECTION_DEFAULT),
        image_head=HeadSettings("none"),
        text_head=HeadSettings("linear", bias=True),
    )


def prepare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the logarithm of the logits' scale in place of the temperature, which is its inverse.

    Raises:
        ModelError: the temperature is not positive.
    """
    found = dict(tensors)
    if TEMPERATURE in found:
        temperature = float(found[TEMPERATURE])
        if not temperature > 0:
            raise ModelError(f"ALIGN: the temperature is {temperature}, which must be positive")
        found[TEMPERATURE] = torch.tensor(-math.log(temperature))
    return found


LAYOUT = TransformersLayout(
    "ALIGN",
    "align",
    settings,
    None,
    ROWS,
    bert.ignored("text_model."),
    "EfficientNet",
    "bert",
    prepare=prepare,
)
