"""Hugging Face's DINOv2, with and without registers, with and without its linear classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.weights import huggingface, preprocessing
from beholder.weights.huggingface import activation, classes, image_size, patch_size
from beholder.weights.loaded import LoadedImageEncoder
from beholder.weights.table import Row, build_empty, load_foreign
from beholder.weights.tensors import read_tensors

DEFAULTS = {
    "hidden_size": 768,
    "mlp_ratio": 4,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
WITH_REGISTERS_DEFAULTS = {**DEFAULTS, "patch_size": 16, "num_register_tokens": 4}
CLASSIFIERS = ("Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification")


def settings(config: Mapping[str, Any]) -> VisionSettings:
    """Return the settings of the network that a ``config.json`` describes."""
    with_registers = config["model_type"] == "dinov2_with_registers"
    config = {**(WITH_REGISTERS_DEFAULTS if with_registers else DEFAULTS), **config}
    height, width = image_size(config)
    mlp_width = int(config["hidden_size"] * config["mlp_ratio"])
    if config["use_swiglu_ffn"]:  # two thirds of it, in steps of 8 (DINOv2's SwiGLUFFNFused)
        mlp_width = (int(mlp_width * 2 / 3) + 7) // 8 * 8
    return VisionSettings(
        image_height=height,
        image_width=width,
        patch_size=patch_size(config),
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=mlp_width,
        activation=activation(config),
        norm_eps=config["layer_norm_eps"],
        qkv_bias=config["qkv_bias"],
        registers=config["num_register_tokens"] if with_registers else 0,
        antialias=with_registers,
        swiglu=config["use_swiglu_ffn"],
        layer_scale=True,
        classes=classes(config, *CLASSIFIERS),
        classify_mean=bool(classes(config, *CLASSIFIERS)),
    )


def rows(config: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the table of names; with a classifier, the backbone's names have a prefix."""
    prefix = f"{config['model_type']}." if classes(config, *CLASSIFIERS) else ""
    layer = f"{prefix}encoder.layer.*"
    up, down = ("weights_in", "weights_out") if config.get("use_swiglu_ffn") else ("fc1", "fc2")
    return (
        Row("class_token", f"{prefix}embeddings.cls_token"),
        Row("registers", f"{prefix}embeddings.register_tokens"),
        Row("patches.*", f"{prefix}embeddings.patch_embeddings.projection.*"),
        Row("positions", f"{prefix}embeddings.position_embeddings"),
        Row(
            "blocks.*.attention.qkv.*",
            tuple(f"{layer}.attention.attention.{part}.*" for part in ("query", "key", "value")),
        ),
        Row("blocks.*.attention.out.*", f"{layer}.attention.output.dense.*"),
        Row("blocks.*.norm_attention.*", f"{layer}.norm1.*"),
        Row("blocks.*.scale_attention", f"{layer}.layer_scale1.lambda1"),
        Row("blocks.*.norm_mlp.*", f"{layer}.norm2.*"),
        Row("blocks.*.mlp.up.*", f"{layer}.mlp.{up}.*"),
        Row("blocks.*.mlp.down.*", f"{layer}.mlp.{down}.*"),
        Row("blocks.*.scale_mlp", f"{layer}.layer_scale2.lambda1"),
        Row("final_norm.*", f"{prefix}layernorm.*"),
        Row("classifier.*", "classifier.*"),
    )


def ignored(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the token that replaced masked patches in training."""
    prefix = f"{config['model_type']}." if classes(config, *CLASSIFIERS) else ""
    return (f"{prefix}embeddings.mask_token",)


def load_image_encoder(folder: Path, name: str, allow_pickle: bool = True) -> LoadedImageEncoder:
    """Load a folder.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    config = huggingface.read_json(folder / huggingface.CONFIG)
    tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
    network = load_foreign(build_empty(VisionTransformer, settings(config)), tensors, rows(config), ignored(config))
    labels = huggingface.labels(config) if network.settings.classes else ()
    return LoadedImageEncoder(network, preprocessing.from_huggingface(folder, "Bit"), labels, name)
