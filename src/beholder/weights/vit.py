"""Hugging Face's original vision transformer: ``ViTModel`` and ``ViTForImageClassification``."""

from collections.abc import Collection, Mapping
from typing import Any

from beholder.errors import ModelError
from beholder.models.vit import VisionSettings
from beholder.weights import image_encoder_layout
from beholder.weights.huggingface import block_settings, classes, patch_settings
from beholder.weights.image_encoder_layout import ImageEncoderLayout
from beholder.weights.table import Row

DEFAULTS = {
    **image_encoder_layout.DEFAULTS,
    "intermediate_size": 3072,
    "patch_size": 16,
    "layer_norm_eps": 1e-12,
    "pooler_act": "tanh",
    "pooler_output_size": None,
}
CLASSIFIER = "ViTForImageClassification"


def settings(config: Mapping[str, Any], names: Collection[str]) -> VisionSettings:
    """Return the settings of the network that a ``config.json`` describes.

    Whether ``ViTModel`` has a pooler is not in the config, so the ``names`` of the tensors say it.
    """
    config = {**DEFAULTS, **config}
    pooler = "pooler.dense.weight" in names or "pooler.dense.bias" in names
    if pooler and (config["pooler_act"] != "tanh" or config["pooler_output_size"] not in (None, config["hidden_size"])):
        raise ModelError("only a tanh pooler as wide as the network is known; the config describes another")
    return VisionSettings(
        **patch_settings(config),
        **block_settings(config),
        qkv_bias=config["qkv_bias"],
        tanh_pooler=pooler,
        classes=classes(config, CLASSIFIER),
    )


def prefix(config: Mapping[str, Any]) -> str:
    """Return the prefix of the backbone's names: with a classifier it is a part of the model."""
    return "vit." if classes(config, CLASSIFIER) else ""


def rows(prefix: str, config: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the rows of the table of names that DINOv2 does not have."""
    layer = f"{prefix}encoder.layer.*"
    return (
        Row("blocks.*.norm_attention.*", f"{layer}.layernorm_before.*"),
        Row("blocks.*.norm_mlp.*", f"{layer}.layernorm_after.*"),
        Row("blocks.*.mlp.up.*", f"{layer}.intermediate.dense.*"),
        Row("blocks.*.mlp.down.*", f"{layer}.output.dense.*"),
        Row("tanh_pooler.*", f"{prefix}pooler.dense.*"),
    )


LAYOUT = ImageEncoderLayout(settings, prefix, rows, (), "ViT")
