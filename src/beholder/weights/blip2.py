"""Hugging Face's BLIP-2: ``Blip2ForConditionalGeneration`` with OPT or Flan-T5, ``Blip2ForImageTextRetrieval``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from beholder.errors import ModelError
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.language_model import LanguageModel
from beholder.models.qformer import QFormerSettings
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.text.foreign import tokenizer_from_folder
from beholder.text.prompts import Prompts
from beholder.weights import huggingface
from beholder.weights import preprocessing as foreign_preprocessing
from beholder.weights.language_models import frozen_language_model, read_words
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.table import Row, build_empty, fill
from beholder.weights.tensors import read_tensors

VISION_DEFAULTS = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
}
QFORMER_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "cross_attention_frequency": 2,
    "encoder_hidden_size": 1408,
    "use_qformer_text_input": False,
}
RETRIEVAL = "Blip2ForImageTextRetrieval"
LANGUAGE_PREFIX = "language_model."

LAYER = "bridge.qformer.layers.*"


def look_rows(ours: str, theirs: str, inner: str) -> tuple[Row, ...]:
    """An attention of BERT's form; ``inner`` is its part that holds queries, keys and values."""
    return (
        *(Row(f"{ours}.{part}.*", f"{theirs}.{inner}.{part}.*") for part in ("query", "key", "value")),
        Row(f"{ours}.out.*", f"{theirs}.output.dense.*"),
        Row(f"{ours}.norm.*", f"{theirs}.output.LayerNorm.*"),
    )


def feed_rows(ours: str, theirs: str, suffix: str) -> tuple[Row, ...]:
    """A feed-forward of BERT's form; ``suffix`` tells that of the queries from that of the text."""
    return (
        Row(f"{ours}.mlp.up.*", f"{theirs}.intermediate{suffix}.dense.*"),
        Row(f"{ours}.mlp.down.*", f"{theirs}.output{suffix}.dense.*"),
        Row(f"{ours}.norm.*", f"{theirs}.output{suffix}.LayerNorm.*"),
    )


def layer_rows(theirs: str, inner: str) -> tuple[Row, ...]:
    """All of the Q-Former's layers, which both publishers name alike but for ``inner``."""
    return (
        *look_rows(f"{LAYER}.attention", f"{theirs}.attention", inner),
        *look_rows(f"{LAYER}.look", f"{theirs}.crossattention", inner),
        *feed_rows(f"{LAYER}.query_feed", theirs, "_query"),
        *feed_rows(f"{LAYER}.text_feed", theirs, ""),
    )


ROWS = (
    Row("image.class_token", "vision_model.embeddings.class_embedding"),
    Row("image.positions", "vision_model.embeddings.position_embedding"),
    Row("image.patches.*", "vision_model.embeddings.patch_embedding.*"),
    Row("image.blocks.*.attention.qkv.*", "vision_model.encoder.layers.*.self_attn.qkv.*"),
    Row("image.blocks.*.attention.out.*", "vision_model.encoder.layers.*.self_attn.projection.*"),
    Row("image.blocks.*.norm_attention.*", "vision_model.encoder.layers.*.layer_norm1.*"),
    Row("image.blocks.*.norm_mlp.*", "vision_model.encoder.layers.*.layer_norm2.*"),
    Row("image.blocks.*.mlp.up.*", "vision_model.encoder.layers.*.mlp.fc1.*"),
    Row("image.blocks.*.mlp.down.*", "vision_model.encoder.layers.*.mlp.fc2.*"),
    Row("image.final_norm.*", "vision_model.post_layernorm.*"),
    Row("bridge.qformer.queries", "query_tokens"),
    Row("bridge.qformer.words.weight", "embeddings.word_embeddings.weight"),
    Row("bridge.qformer.positions.weight", "embeddings.position_embeddings.weight"),
    Row("bridge.qformer.norm.*", "qformer.layernorm.*"),
    *layer_rows("qformer.encoder.layer.*", "attention"),
    Row("bridge.image_head.*", "vision_projection.*"),
    Row("bridge.text_head.*", "text_projection.*"),
    Row("bridge.matching_head.*", "itm_head.*"),
    Row("bridge.to_language.*", "language_projection.*"),
)
# Counters 0, 1, 2, … that old versions stored.
IGNORED = ("embeddings.position_ids", "qformer.embeddings.position_ids")


def load(folder: Path, name: str, allow_pickle: bool = False) -> LoadedVisionLanguage:
    """The model of a folder.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    config = huggingface.read_json(folder / "config.json")
    retrieval = RETRIEVAL in (config.get("architectures") or ())
    tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
    tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    mine = {key: tensor for key, tensor in tensors.items() if not key.startswith(LANGUAGE_PREFIX)}
    language, words = None, None
    if not retrieval:
        language = frozen_language_model(
            config.get("text_config") or {},
            {key.removeprefix(LANGUAGE_PREFIX): t for key, t in tensors.items() if key.startswith(LANGUAGE_PREFIX)},
            folder,
        )
        words = read_words(folder)
    settings = bridge_settings(config, retrieval, language)
    both = nn.ModuleDict(
        {
            "image": build_empty(VisionTransformer, vision_settings(config)),
            "bridge": build_empty(Bridge, settings),
        }
    )
    fill(both, mine, ROWS, IGNORED)
    tokenizer = None
    if retrieval:
        tokenizer = tokenizer_from_folder(folder, "bert", settings.qformer.positions)
    return LoadedVisionLanguage(
        both["image"],
        foreign_preprocessing.from_huggingface(folder, "Blip"),
        both["bridge"],  # type: ignore[arg-type]
        language,
        words,
        tokenizer,
        Prompts(),
        name,
    )


def vision_settings(config: Mapping[str, Any]) -> VisionSettings:
    """BLIP-2's vision transformer."""
    vision = huggingface.section(config, "vision_config", VISION_DEFAULTS)
    height, width = huggingface.image_size(vision)
    return VisionSettings(
        image_height=height,
        image_width=width,
        patch_size=huggingface.patch_size(vision),
        width=vision["hidden_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_width=vision["intermediate_size"],
        activation=huggingface.activation(vision),
        norm_eps=vision["layer_norm_eps"],
        qkv_bias=vision["qkv_bias"],
    )


def bridge_settings(config: Mapping[str, Any], retrieval: bool, language: LanguageModel | None) -> BridgeSettings:
    """The Q-Former, with the heads of stage 1 or the layer to the language model."""
    qformer = huggingface.section(config, "qformer_config", QFORMER_DEFAULTS)
    if huggingface.activation(qformer) != "gelu":
        raise ModelError(f"a Q-Former with the activation {qformer['hidden_act']!r} is not covered; gelu is")
    return BridgeSettings(
        QFormerSettings(
            queries=config.get("num_query_tokens", 32),
            width=qformer["hidden_size"],
            layers=qformer["num_hidden_layers"],
            heads=qformer["num_attention_heads"],
            mlp_width=qformer["intermediate_size"],
            image_width=qformer["encoder_hidden_size"],
            cross_every=qformer["cross_attention_frequency"],
            vocabulary=qformer["vocab_size"] if retrieval else 0,
            positions=qformer["max_position_embeddings"],
            norm_eps=qformer["layer_norm_eps"],
        ),
        embedding=config.get("image_text_hidden_size", 256) if retrieval else 0,
        language_width=0 if language is None else language.width,
        inference_only=True,  # the published checkpoints carry neither generation head nor temperature
    )
