"""What the configs of Hugging Face checkpoints have in common.

A config may leave out whatever equals the default of its class, so each format's module keeps those defaults, taken
from transformers 5.23.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beholder.errors import ModelError
from beholder.models.dual_encoder import ImageSettings, TextSettings
from beholder.models.layers import Activation
from beholder.models.vit import VisionSettings
from beholder.weights.table import Row

CONFIG = "config.json"
STEMS = ("model", "pytorch_model")

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelError: the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: this file is needed and missing") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return value


def section(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tower's section of a dual encoder's config, completed by the defaults.

    Old configs have ``text_config_dict`` beside ``text_config``; it wins, with its own defaults.
    """
    values = {**defaults, **(config.get(name) or {})}
    legacy = config.get(f"{name}_dict")
    return values if legacy is None else {**values, **defaults, **legacy}


def activation(config: Mapping[str, Any]) -> Activation:
    """Return our name of a config's activation."""
    name = config["hidden_act"]
    if name not in ACTIVATIONS:
        raise ModelError(f"the config asks for the activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def image_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) in pixels, from a number or a pair."""
    size = config["image_size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def patch_size(config: Mapping[str, Any]) -> int:
    """Return the side of a patch, which has to be square and of three channels."""
    size = config["patch_size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1 or config["num_channels"] != 3:
        raise ModelError(f"patches of {size} pixels and {config['num_channels']} channels: only squares of 3 are known")
    return sides.pop()


def block_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a tower's blocks, which have the same names in most configs."""
    return {
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_width": config["intermediate_size"],
        "activation": activation(config),
        "norm_eps": config["layer_norm_eps"],
    }


def patch_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of how a vision transformer cuts an image into patches."""
    height, width = image_size(config)
    return {"image_height": height, "image_width": width, "patch_size": patch_size(config)}


def classes(config: Mapping[str, Any], *classifiers: str) -> int:
    """Return the size of the classification head; 0 unless the checkpoint's class is one of the ``classifiers``."""
    if not set(config.get("architectures") or ()) & set(classifiers):
        return 0
    return len(labels(config)) or config.get("num_labels", 2)


def labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes in the order of the logits; empty if the config has none."""
    names = config.get("id2label") or {}
    return tuple(names[key] for key in sorted(names, key=int))


def encoder_rows(ours: str, theirs: str) -> tuple[Row, ...]:
    """Return the rows for the blocks of the CLIP and SigLIP towers."""
    attention = f"{theirs}.encoder.layers.*.self_attn"
    return (
        Row(f"{ours}.blocks.*.attention.qkv.*", tuple(f"{attention}.{part}_proj.*" for part in "qkv")),
        Row(f"{ours}.blocks.*.attention.out.*", f"{attention}.out_proj.*"),
        Row(f"{ours}.blocks.*.norm_attention.*", f"{theirs}.encoder.layers.*.layer_norm1.*"),
        Row(f"{ours}.blocks.*.norm_mlp.*", f"{theirs}.encoder.layers.*.layer_norm2.*"),
        Row(f"{ours}.blocks.*.mlp.up.*", f"{theirs}.encoder.layers.*.mlp.fc1.*"),
        Row(f"{ours}.blocks.*.mlp.down.*", f"{theirs}.encoder.layers.*.mlp.fc2.*"),
    )


def text_config(text: TextSettings) -> dict[str, Any]:
    """Return the entries that describe a text tower in any config of transformers."""
    return {
        "vocab_size": text.vocabulary,
        "max_position_embeddings": text.context_length,
        **_blocks_config(text),
    }


def vision_config(image: ImageSettings) -> dict[str, Any]:
    """Return the entries that describe a vision transformer in any config of transformers.

    Raises:
        ModelError: it is not a vision transformer, or its pictures are not square.
    """
    if not isinstance(image, VisionSettings):
        raise ModelError(f"its image tower is described by {type(image).__name__}, which is not a vision transformer")
    if image.image_height != image.image_width:
        size = f"{image.image_height} x {image.image_width}"
        raise ModelError(f"its pictures are {size}, and transformers' vision towers know squares only")
    return {
        "image_size": image.image_height,
        "patch_size": image.patch_size,
        "num_channels": 3,
        **_blocks_config(image),
    }


def _blocks_config(tower: TextSettings | VisionSettings) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}  # of several names the newest, which comes last
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": names[tower.activation],
        "layer_norm_eps": tower.norm_eps,
    }
