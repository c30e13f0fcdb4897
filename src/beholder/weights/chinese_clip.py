"""Hugging Face's Chinese-CLIP (``ChineseCLIPModel``, arXiv:2211.01335): CLIP's image tower and a BERT."""

from collections.abc import Mapping
from typing import Any

from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.layers import HeadSettings
from beholder.weights import bert, clip
from beholder.weights.huggingface import section, text_config, vision_config
from beholder.weights.transformers_layout import TransformersLayout

ROWS = (*clip.VISION_ROWS, *bert.rows("text.", "text_model."), *clip.PROJECTION_ROWS)
IGNORED = (*bert.ignored("text_model."), "vision_model.embeddings.position_ids")


def settings(config: Mapping[str, Any]) -> TwoTowersSettings:
    """Return the settings of the dual encoder that a ``config.json`` describes."""
    return TwoTowersSettings(
        image=clip.vision_settings(section(config, "vision_config", clip.VISION_DEFAULTS)),
        text=bert.settings(section(config, "text_config", bert.DEFAULTS), pooling="first"),
        embedding=config.get("projection_dim", clip.PROJECTION_DEFAULT),
        image_head=HeadSettings("linear"),
        text_head=HeadSettings("linear"),
    )


def config(network: TwoTowersSettings) -> dict[str, Any]:
    """Return the ``config.json`` of a dual encoder; ``settings`` of it tells how much of it the format can express."""
    return {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": network.embedding,
        "text_config": {
            "model_type": "chinese_clip_text_model",
            **text_config(network.text),
            "type_vocab_size": getattr(network.text, "token_types", None),
        },
        "vision_config": {"model_type": "chinese_clip_vision_model", **vision_config(network.image)},
    }


LAYOUT = TransformersLayout("Chinese-CLIP", "chinese_clip", settings, config, ROWS, IGNORED, "ChineseCLIP", "bert")
