"""Hugging Face's AltCLIP (``AltCLIPModel``, arXiv:2211.06679): CLIP's image tower and XLM-RoBERTa."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.layers import HeadSettings
from beholder.weights import bert, clip
from beholder.weights.huggingface import section
from beholder.weights.table import Row
from beholder.weights.transformers_layout import TransformersLayout
from beholder.weights.xlm_roberta import FIRST_POSITION

TEXT_DEFAULTS = {
    "vocab_size": 250002,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 514,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "type_vocab_size": 1,
}
TEXT = "text_model.roberta."
POSITIONS = f"{TEXT}embeddings.position_embeddings.weight"
PROJECTION = "text_projection"
TRANSFORMATION = "text_model.transformation"


def settings(config: Mapping[str, Any]) -> TwoTowersSettings:
    """Return the settings of the dual encoder that a ``config.json`` describes."""
    text = bert.settings(section(config, "text_config", TEXT_DEFAULTS), pooling="first")
    return TwoTowersSettings(
        image=clip.vision_settings(section(config, "vision_config", clip.VISION_DEFAULTS)),
        text=replace(text, context_length=text.context_length - FIRST_POSITION, final_norm=True),
        embedding=config.get("projection_dim", 768),
        image_head=HeadSettings("linear"),
        text_head=HeadSettings("linear", bias=True),
    )


def prepare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the text's two linear layers, between which there is nothing, as one.

    Raises:
        ModelError: one of them is missing.
    """
    linear = (f"{PROJECTION}.weight", f"{TRANSFORMATION}.weight", f"{TRANSFORMATION}.bias")
    missing = [name for name in (*linear, POSITIONS) if name not in tensors]
    if missing:
        raise ModelError(f"AltCLIP: {', '.join(missing)} is missing")
    projection, weight, bias = (tensors[name].float() for name in linear)
    found = {_layer_named(name): tensor for name, tensor in tensors.items() if name not in linear}
    found[POSITIONS] = found[POSITIONS][FIRST_POSITION:]
    return {**found, f"{PROJECTION}.weight": projection @ weight, f"{PROJECTION}.bias": projection @ bias}


def _layer_named(name: str) -> str:
    """Return a tensor's name as the published files have it: transformers has written either for both towers."""
    kept = "layer" if name.startswith(TEXT) else "layers"
    return re.sub(r"\.encoder\.layers?\.", f".encoder.{kept}.", name)


ROWS = (
    *clip.VISION_ROWS,
    *bert.rows("text.", TEXT),
    Row("text.final_norm.*", "text_model.pre_LN.*"),
    *clip.PROJECTION_ROWS,
    Row("text_head.linear.bias", f"{PROJECTION}.bias"),
)
IGNORED = (*bert.ignored(TEXT), "vision_model.embeddings.position_ids")
LAYOUT = TransformersLayout("AltCLIP", "altclip", settings, None, ROWS, IGNORED, "CLIP", "xlm_roberta", prepare=prepare)
