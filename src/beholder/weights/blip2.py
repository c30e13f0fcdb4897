"""Hugging Face's BLIP-2: ``Blip2ForConditionalGeneration`` with OPT or Flan-T5, ``Blip2ForImageTextRetrieval``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from torch import Tensor, nn

from beholder.errors import ModelError, WeightsMismatch
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.language_model import LanguageModel, language_model
from beholder.models.qformer import QFormerSettings
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.text.foreign import tokenizer_from_folder
from beholder.text.prompts import Prompts
from beholder.weights import huggingface
from beholder.weights import preprocessing as foreign_preprocessing
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

LAYER, THEIRS = "bridge.qformer.layers.*", "qformer.encoder.layer.*"


def _look(ours: str, theirs: str) -> tuple[Row, ...]:
    return (
        *(Row(f"{ours}.{part}.*", f"{theirs}.attention.{part}.*") for part in ("query", "key", "value")),
        Row(f"{ours}.out.*", f"{theirs}.output.dense.*"),
        Row(f"{ours}.norm.*", f"{theirs}.output.LayerNorm.*"),
    )


def _feed(ours: str, suffix: str) -> tuple[Row, ...]:
    return (
        Row(f"{ours}.mlp.up.*", f"{THEIRS}.intermediate{suffix}.dense.*"),
        Row(f"{ours}.mlp.down.*", f"{THEIRS}.output{suffix}.dense.*"),
        Row(f"{ours}.norm.*", f"{THEIRS}.output{suffix}.LayerNorm.*"),
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
    *_look(f"{LAYER}.attention", f"{THEIRS}.attention"),
    *_look(f"{LAYER}.look", f"{THEIRS}.crossattention"),
    *_feed(f"{LAYER}.query_feed", "_query"),
    *_feed(f"{LAYER}.text_feed", ""),
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


def frozen_language_model(config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> LanguageModel:
    """The language model inside a checkpoint, in single precision.

    Raises:
        ModelError: transformers does not know it.
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

    values = dict(config)
    kind = values.pop("model_type", "opt")
    try:
        settings = AutoConfig.for_model(kind, **values)
    except ValueError as error:
        raise ModelError(f"transformers knows no language model of the kind {kind!r} ({error})") from error
    maker = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        kind_of_model = type(maker.from_config(settings))
    module, report = kind_of_model.from_pretrained(
        None, config=settings, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
    )
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])})
    if wrong:
        raise WeightsMismatch(f"the language model's tensors do not fit its config: {', '.join(wrong[:5])}")
    if (folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder)
    return language_model(module)


def read_words(folder: Path) -> tokenizers.Tokenizer:
    """The language model's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: the language model's tokenizer cannot be read ({error})") from error
