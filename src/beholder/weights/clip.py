"""Hugging Face's CLIP (``CLIPModel``): openai/clip-vit-base-patch32 and its many relatives."""

from collections.abc import Mapping
from typing import Any

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.layers import HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
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
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
PROJECTION_DEFAULT = 512
# Configs written before transformers 4.31 hold 2 by mistake; the networks meant the highest id of the sentence.
MISTAKEN_END_ID = 2

VISION_ROWS = (
    Row("image.class_token", "vision_model.embeddings.class_embedding"),
    Row("image.patches.weight", "vision_model.embeddings.patch_embedding.weight"),
    Row("image.positions", "vision_model.embeddings.position_embedding.weight"),
    Row("image.norm_first.*", "vision_model.pre_layrnorm.*"),
    Row("image.final_norm.*", "vision_model.post_layernorm.*"),
    *encoder_rows("image", "vision_model"),
)
PROJECTION_ROWS = (
    Row("image_head.linear.weight", "visual_projection.weight"),
    Row("text_head.linear.weight", "text_projection.weight"),
    Row("logit_scale", "logit_scale"),
)
TEXT_ROWS = (
    Row("text.embedding.weight", "text_model.embeddings.token_embedding.weight"),
    Row("text.positions", "text_model.embeddings.position_embedding.weight"),
    Row("text.final_norm.*", "text_model.final_layer_norm.*"),
    *encoder_rows("text", "text_model"),
)
ROWS = (*VISION_ROWS, *TEXT_ROWS, *PROJECTION_ROWS)
# Counters 0, 1, 2, … that old versions stored.
IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def settings(config: Mapping[str, Any]) -> TwoTowersSettings:
    """Return the settings of the dual encoder that a ``config.json`` describes."""
    text = section(config, "text_config", TEXT_DEFAULTS)
    end_id = text["eos_token_id"]
    if not isinstance(end_id, int):
        raise ModelError(f"the config's eos_token_id is {end_id}; one number is needed")
    return TwoTowersSettings(
        image=vision_settings(section(config, "vision_config", VISION_DEFAULTS)),
        text=TextTransformerSettings(
            vocabulary=text["vocab_size"],
            context_length=text["max_position_embeddings"],
            **block_settings(text),
            pooling="highest_id" if end_id == MISTAKEN_END_ID else "end",
            end_id=end_id,
        ),
        embedding=config.get("projection_dim", PROJECTION_DEFAULT),
        image_head=HeadSettings("linear"),
        text_head=HeadSettings("linear"),
    )


def config(network: TwoTowersSettings) -> dict[str, Any]:
    """Return the ``config.json`` of a dual encoder; ``settings`` of it tells how much of it the format can express."""
    text = network.text
    highest = isinstance(text, TextTransformerSettings) and text.pooling == "highest_id"
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": network.embedding,
        "text_config": {
            "model_type": "clip_text_model",
            **text_config(text),
            "eos_token_id": MISTAKEN_END_ID if highest else getattr(text, "end_id", 0),
            "projection_dim": network.embedding,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **vision_config(network.image),
            "projection_dim": network.embedding,
        },
    }


def vision_settings(vision: Mapping[str, Any]) -> VisionSettings:
    """CLIP's image tower, which Chinese-CLIP shares."""
    return VisionSettings(
        **patch_settings(vision),
        **block_settings(vision),
        patch_bias=False,
        norm_first=True,
        final_norm="pooled",
    )


LAYOUT = TransformersLayout("CLIP", "clip", settings, config, ROWS, IGNORED, "CLIP", "clip")
