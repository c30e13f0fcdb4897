"""Renames of tensors and settings since version 1 of the vision-language format, which ``mini``'s bridge still has."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

VERSION = 1
TENSORS = (
    (r"\bqformer\.queries$", "qformer.query_tokens"),
    (r"\bqformer\.words\.", "qformer.word_embeddings."),
    (r"\bqformer\.positions\.", "qformer.position_embeddings."),
    (r"(\bqformer\.layers\.\d+)\.look\.", r"\1.cross_attention."),
    (r"(\bqformer\.layers\.\d+)\.query_feed\.", r"\1.query_feed_forward."),
    (r"(\bqformer\.layers\.\d+)\.text_feed\.", r"\1.text_feed_forward."),
    (r"\bwhole_prompts\.", "global_prompts."),
)
BRIDGE_SETTINGS = {"whole_tokens": "global_tokens", "whole_prompts": "global_prompts"}
QFORMER_SETTINGS = {"positions": "max_position_embeddings", "cross_every": "cross_attention_frequency"}
PROMPTS = {"between": "separator", "lower": "lowercase"}
MODEL_SETTINGS = {"judge": "reranker", "candidates": "num_candidates"}


def current_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by their current names."""
    return {_renamed(name): tensor for name, tensor in tensors.items()}


def current_bridge(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a bridge's settings by their current names."""
    bridge = _by(BRIDGE_SETTINGS, settings)
    return {**bridge, "qformer": _by(QFORMER_SETTINGS, bridge["qformer"])}


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``beholder.json`` of a vision-language model by its current names."""
    model = _by(MODEL_SETTINGS, config)
    return {**model, "bridge": current_bridge(model["bridge"]), "prompts": _by(PROMPTS, model["prompts"])}


def _renamed(name: str) -> str:
    for pattern, replacement in TENSORS:
        name = re.sub(pattern, replacement, name)
    return name


def _by(names: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}
