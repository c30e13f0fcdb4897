"""Hugging Face's SigLIP (``SiglipModel``), and SigLIP 2 where its pictures have a fixed size, which uses it too."""

from collections.abc import Mapping
from typing import Any

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.layers import HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.weights import clip
from beholder.weights.huggingface import (
    block_settings,
    encoder_rows,
    patch_settings,
    section,
    text_config,
    vision_config,
)
from beholder.weights.table import Row
from beholder.weights.transformers_layout import TransformersLayout

TEXT_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "projection_size": None,
}
VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}

ROWS = (
    Row("image.patches.*", "vision_model.embeddings.patch_embedding.*"),
    Row("image.positions", "vision_model.embeddings.position_embedding.weight"),
    Row("image.final_norm.*", "vision_model.post_layernorm.*"),
    *encoder_rows("image", "vision_model"),
    Row("image.attention_pooling.query", "vision_model.head.probe", leading=2),
    Row("image.attention_pooling.attention.qkv.weight", "vision_model.head.attention.in_proj_weight"),
    Row("image.attention_pooling.attention.qkv.bias", "vision_model.head.attention.in_proj_bias"),
    Row("image.attention_pooling.attention.out.*", "vision_model.head.attention.out_proj.*"),
    Row("image.attention_pooling.norm.*", "vision_model.head.layernorm.*"),
    Row("image.attention_pooling.mlp.up.*", "vision_model.head.mlp.fc1.*"),
    Row("image.attention_pooling.mlp.down.*", "vision_model.head.mlp.fc2.*"),
    *clip.TEXT_ROWS,
    Row("text_head.linear.*", "text_model.head.*"),
    Row("logit_scale", "logit_scale", leading=1),
    Row("logit_bias", "logit_bias", leading=1),
)


def settings(config: Mapping[str, Any]) -> TwoTowersSettings:
    """Return the settings of the dual encoder that a ``config.json`` describes."""
    text = section(config, "text_config", TEXT_DEFAULTS)
    vision = section(config, "vision_config", VISION_DEFAULTS)
    check_head(vision)
    return TwoTowersSettings(
        image=VisionSettings(
            **patch_settings(vision),
            **block_settings(vision),
            class_token=False,
            pooling="attention",
        ),
        text=text_settings(text),
        embedding=text["projection_size"] or text["hidden_size"],
        image_head=HeadSettings("none"),
        text_head=HeadSettings("linear", bias=True),
        logit_bias=True,
    )


def text_settings(text: Mapping[str, Any]) -> TextTransformerSettings:
    """Return the settings of the text tower, which SigLIP 2 shares, from its section of a config."""
    return TextTransformerSettings(
        vocabulary=text["vocab_size"],
        context_length=text["max_position_embeddings"],
        **block_settings(text),
        causal=False,
        pooling="last",
    )


def check_head(vision: Mapping[str, Any]) -> None:
    """Raise `ModelError` if an image tower's section of a config leaves out the head that pools its tokens."""
    if not vision["vision_use_head"]:
        raise ModelError("the config has vision_use_head off: without its pooling head SigLIP gives no image vector")


def config(network: TwoTowersSettings) -> dict[str, Any]:
    """Return the ``config.json`` of a dual encoder; ``settings`` of it tells how much of it the format can express."""
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model",
            **text_config(network.text),
            "projection_size": network.embedding,
        },
        "vision_config": {"model_type": "siglip_vision_model", **vision_config(network.image), "vision_use_head": True},
    }


LAYOUT = TransformersLayout("SigLIP", "siglip", settings, config, ROWS, clip.IGNORED, "Siglip", "siglip")
