"""Hugging Face's original vision transformer: ``ViTModel`` and ``ViTForImageClassification``."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from beholder.errors import ModelError
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.weights import huggingface, preprocessing
from beholder.weights.huggingface import activation, classes, image_size, patch_size
from beholder.weights.loaded import LoadedImageEncoder
from beholder.weights.table import Row, build_empty, load_foreign
from beholder.weights.tensors import read_tensors

DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "pooler_act": "tanh",
    "pooler_output_size": None,
}
CLASSIFIER = "ViTForImageClassification"


def settings(config: Mapping[str, Any], names: Collection[str]) -> VisionSettings:
    """Return the settings of the network that a ``config.json`` describes.

    Whether ``ViTModel`` has a pooler is not in the config, so the ``names`` of the tensors say it.
    """
    config = {**DEFAULTS, **config}
    height, width = image_size(config)
    pooler = "pooler.dense.weight" in names or "pooler.dense.bias" in names
    if pooler and (config["pooler_act"] != "tanh" or config["pooler_output_size"] not in (None, config["hidden_size"])):
        raise ModelError("only a tanh pooler as wide as the network is known; the config describes another")
    return VisionSettings(
        image_height=height,
        image_width=width,
        patch_size=patch_size(config),
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        activation=activation(config),
        norm_eps=config["layer_norm_eps"],
        qkv_bias=config["qkv_bias"],
        tanh_pooler=pooler,
        classes=classes(config, CLASSIFIER),
    )


def rows(config: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the table of names; the classifying form has its backbone under ``vit.``."""
    prefix = "vit." if classes(config, CLASSIFIER) else ""
    layer = f"{prefix}encoder.layer.*"
    return (
        Row("class_token", f"{prefix}embeddings.cls_token"),
        Row("patches.*", f"{prefix}embeddings.patch_embeddings.projection.*"),
        Row("positions", f"{prefix}embeddings.position_embeddings"),
        Row(
            "blocks.*.attention.qkv.*",
            tuple(f"{layer}.attention.attention.{part}.*" for part in ("query", "key", "value")),
        ),
        Row("blocks.*.attention.out.*", f"{layer}.attention.output.dense.*"),
        Row("blocks.*.norm_attention.*", f"{layer}.layernorm_before.*"),
        Row("blocks.*.norm_mlp.*", f"{layer}.layernorm_after.*"),
        Row("blocks.*.mlp.up.*", f"{layer}.intermediate.dense.*"),
        Row("blocks.*.mlp.down.*", f"{layer}.output.dense.*"),
        Row("final_norm.*", f"{prefix}layernorm.*"),
        Row("tanh_pooler.*", f"{prefix}pooler.dense.*"),
        Row("classifier.*", "classifier.*"),
    )


def load_image_encoder(folder: Path, name: str, allow_pickle: bool = True) -> LoadedImageEncoder:
    """Load a folder.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    config = huggingface.read_json(folder / huggingface.CONFIG)
    tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
    network = load_foreign(build_empty(VisionTransformer, settings(config, tensors)), tensors, rows(config))
    labels = huggingface.labels(config) if network.settings.classes else ()
    return LoadedImageEncoder(network, preprocessing.from_huggingface(folder, "ViT"), labels, name)
