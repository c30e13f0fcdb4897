"""Hugging Face's MetaCLIP 2 (``MetaClip2Model``, arXiv:2507.22062): CLIP with XLM-V's vocabulary of many languages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.weights import clip
from beholder.weights.transformers_layout import TransformersLayout

END_ID = 2  # of XLM-V, where the configs of CLIP hold it by mistake


def settings(config: Mapping[str, Any]) -> TwoTowersSettings:
    """Return the settings of the dual encoder that a ``config.json`` describes."""
    text_config = {"eos_token_id": END_ID, **(config.get("text_config") or {})}
    found = clip.settings({**config, "text_config": text_config})
    if not isinstance(found.text, TextTransformerSettings):
        raise TypeError("CLIP's text tower is a transformer")
    return replace(found, text=replace(found.text, pooling="end"))


LAYOUT = TransformersLayout("MetaCLIP 2", "metaclip_2", settings, None, clip.ROWS, clip.IGNORED, "CLIP", "xlm_roberta")
