"""Hugging Face's SigLIP 2 of the NaFlex kind (``Siglip2Model``, arXiv:2502.14786): pictures keep their own shape."""

from collections.abc import Mapping
from typing import Any

from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.layers import HeadSettings
from beholder.models.naflex import NaFlexSettings
from beholder.weights import clip, siglip
from beholder.weights.huggingface import block_settings, patch_size, section
from beholder.weights.preprocessing import naflex_from_huggingface
from beholder.weights.transformers_layout import TransformersLayout

VISION_DEFAULTS = {
    **{name: value for name, value in siglip.VISION_DEFAULTS.items() if name != "image_size"},
    "num_patches": 256,
}


def settings(config: Mapping[str, Any]) -> TwoTowersSettings:
    """Return the settings of the dual encoder that a ``config.json`` describes."""
    text = section(config, "text_config", siglip.TEXT_DEFAULTS)
    vision = section(config, "vision_config", VISION_DEFAULTS)
    siglip.check_head(vision)
    return TwoTowersSettings(
        image=NaFlexSettings(
            patch_size=patch_size(vision), num_patches=vision["num_patches"], **block_settings(vision)
        ),
        text=siglip.text_settings(text),
        embedding=text["projection_size"] or text["hidden_size"],
        image_head=HeadSettings("none"),
        text_head=HeadSettings("linear", bias=True),
        logit_bias=True,
    )


LAYOUT = TransformersLayout(
    "SigLIP 2 NaFlex",
    "siglip2",
    settings,
    None,
    siglip.ROWS,
    clip.IGNORED,
    "Siglip2",
    "siglip",
    preprocessing=naflex_from_huggingface,
)
