"""Hugging Face's BERT, as the text tower of Chinese-CLIP and of MiniLM sentence encoders."""

from collections.abc import Mapping
from typing import Any, Literal

from beholder.errors import ModelError
from beholder.models.bert import BertSettings
from beholder.weights.huggingface import block_settings
from beholder.weights.table import Row

DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "position_embedding_type": "absolute",
}


def settings(config: Mapping[str, Any], pooling: Literal["first", "mean"]) -> BertSettings:
    """Return the settings of the BERT that a config describes; the pooling is not part of it."""
    config = {**DEFAULTS, **config}
    if config["position_embedding_type"] != "absolute":
        raise ModelError(f"BERT with {config['position_embedding_type']} positions: only absolute ones are known")
    return BertSettings(
        vocabulary=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        **block_settings(config),
        pooling=pooling,
        token_types=config["type_vocab_size"],
    )


def rows(ours: str = "", theirs: str = "") -> tuple[Row, ...]:
    """Return the table of names; ``ours`` and ``theirs`` are prefixes such as ``"text."`` and ``"text_model."``."""
    layer = f"{theirs}encoder.layer.*"
    return (
        Row(f"{ours}embedding.weight", f"{theirs}embeddings.word_embeddings.weight"),
        Row(f"{ours}positions", f"{theirs}embeddings.position_embeddings.weight"),
        Row(f"{ours}token_types", f"{theirs}embeddings.token_type_embeddings.weight"),
        Row(f"{ours}first_norm.*", f"{theirs}embeddings.LayerNorm.*"),
        Row(
            f"{ours}blocks.*.attention.qkv.*",
            tuple(f"{layer}.attention.self.{part}.*" for part in ("query", "key", "value")),
        ),
        Row(f"{ours}blocks.*.attention.out.*", f"{layer}.attention.output.dense.*"),
        Row(f"{ours}blocks.*.norm_attention.*", f"{layer}.attention.output.LayerNorm.*"),
        Row(f"{ours}blocks.*.mlp.up.*", f"{layer}.intermediate.dense.*"),
        Row(f"{ours}blocks.*.mlp.down.*", f"{layer}.output.dense.*"),
        Row(f"{ours}blocks.*.norm_mlp.*", f"{layer}.output.LayerNorm.*"),
    )


def ignored(theirs: str = "") -> tuple[str, ...]:
    """Return patterns of unneeded tensors: a counter of old versions, and the pooler."""
    return (f"{theirs}embeddings.position_ids", f"{theirs}pooler.dense.weight", f"{theirs}pooler.dense.bias")
