"""Hugging Face's DINOv2, with and without registers, with and without its linear classifier."""

from collections.abc import Collection, Mapping
from typing import Any

from beholder.models.vit import VisionSettings
from beholder.weights import image_encoder_layout
from beholder.weights.huggingface import block_settings, classes, patch_settings
from beholder.weights.image_encoder_layout import ImageEncoderLayout
from beholder.weights.table import Row

DEFAULTS = {
    **image_encoder_layout.DEFAULTS,
    "mlp_ratio": 4,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
}
WITH_REGISTERS_DEFAULTS = {**DEFAULTS, "patch_size": 16, "num_register_tokens": 4}
CLASSIFIERS = ("Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification")


def settings(config: Mapping[str, Any], names: Collection[str] = ()) -> VisionSettings:
    """Return the settings of the network that a ``config.json`` describes."""
    with_registers = config["model_type"] == "dinov2_with_registers"
    config = {**(WITH_REGISTERS_DEFAULTS if with_registers else DEFAULTS), **config}
    mlp_width = int(config["hidden_size"] * config["mlp_ratio"])
    if config["use_swiglu_ffn"]:  # two thirds of it, in steps of 8 (DINOv2's SwiGLUFFNFused)
        mlp_width = (int(mlp_width * 2 / 3) + 7) // 8 * 8
    return VisionSettings(
        **patch_settings(config),
        **block_settings({**config, "intermediate_size": mlp_width}),
        qkv_bias=config["qkv_bias"],
        registers=config["num_register_tokens"] if with_registers else 0,
        antialias=with_registers,
        swiglu=config["use_swiglu_ffn"],
        layer_scale=True,
        classes=classes(config, *CLASSIFIERS),
        classify_mean=bool(classes(config, *CLASSIFIERS)),
    )


def prefix(config: Mapping[str, Any]) -> str:
    """Return the prefix of the backbone's names: with a classifier it is a part of the model."""
    return f"{config['model_type']}." if classes(config, *CLASSIFIERS) else ""


def rows(prefix: str, config: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the rows of the table of names that ViT does not have."""
    layer = f"{prefix}encoder.layer.*"
    up, down = ("weights_in", "weights_out") if config.get("use_swiglu_ffn") else ("fc1", "fc2")
    return (
        Row("registers", f"{prefix}embeddings.register_tokens"),
        Row("blocks.*.norm_attention.*", f"{layer}.norm1.*"),
        Row("blocks.*.scale_attention", f"{layer}.layer_scale1.lambda1"),
        Row("blocks.*.norm_mlp.*", f"{layer}.norm2.*"),
        Row("blocks.*.mlp.up.*", f"{layer}.mlp.{up}.*"),
        Row("blocks.*.mlp.down.*", f"{layer}.mlp.{down}.*"),
        Row("blocks.*.scale_mlp", f"{layer}.layer_scale2.lambda1"),
    )


# The token that is ignored replaced masked patches in training.
LAYOUT = ImageEncoderLayout(settings, prefix, rows, ("embeddings.mask_token",), "Bit")
