"""Hugging Face's BLIP-2: ``Blip2ForConditionalGeneration`` with OPT or Flan-T5, ``Blip2ForImageTextRetrieval``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
from safetensors.torch import save_file
from torch import Tensor, nn

from beholder.errors import ModelError
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.language_model import LanguageModel
from beholder.models.qformer import QFormerSettings
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.text.prompts import Prompts
from beholder.text.tokenizer_files import TOKENIZER_FAMILIES, tokenizer_from_folder, write_tokenizer
from beholder.weights import huggingface
from beholder.weights import preprocessing as foreign_preprocessing
from beholder.weights.exporting import (
    CARD,
    WEIGHTS,
    DoesNotFit,
    Writer,
    transformers_example,
    warn,
    write_json,
)
from beholder.weights.language_models import language_model_from_tensors, read_language_tokenizer
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.table import Row, build_empty, load_foreign, to_foreign
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
RETRIEVAL, GENERATION = "Blip2ForImageTextRetrieval", "Blip2ForConditionalGeneration"
IMAGE_TOKEN = "<image>"
LANGUAGE_PREFIX = "language_model."

LAYER = "bridge.qformer.layers.*"


def attention_rows(ours: str, theirs: str, inner: str) -> tuple[Row, ...]:
    """Return the rows of an attention as BERT names it; ``inner`` holds queries, keys and values."""
    return (
        *(Row(f"{ours}.{part}.*", f"{theirs}.{inner}.{part}.*") for part in ("query", "key", "value")),
        Row(f"{ours}.out.*", f"{theirs}.output.dense.*"),
        Row(f"{ours}.norm.*", f"{theirs}.output.LayerNorm.*"),
    )


def feed_forward_rows(ours: str, theirs: str, suffix: str) -> tuple[Row, ...]:
    """Return the rows of a feed-forward as BERT names it; ``suffix`` is ``_query`` for that of the queries."""
    return (
        Row(f"{ours}.mlp.up.*", f"{theirs}.intermediate{suffix}.dense.*"),
        Row(f"{ours}.mlp.down.*", f"{theirs}.output{suffix}.dense.*"),
        Row(f"{ours}.norm.*", f"{theirs}.output{suffix}.LayerNorm.*"),
    )


def layer_rows(theirs: str, inner: str) -> tuple[Row, ...]:
    """Return the rows of the Q-Former's layers, which Hugging Face and LAVIS name alike but for ``inner``."""
    return (
        *attention_rows(f"{LAYER}.attention", f"{theirs}.attention", inner),
        *attention_rows(f"{LAYER}.cross_attention", f"{theirs}.crossattention", inner),
        *feed_forward_rows(f"{LAYER}.query_feed_forward", theirs, "_query"),
        *feed_forward_rows(f"{LAYER}.text_feed_forward", theirs, ""),
    )


ROWS = (
    Row("image.class_token", "vision_model.embeddings.class_embedding", leading=2),
    Row("image.positions", "vision_model.embeddings.position_embedding", leading=1),
    Row("image.patches.*", "vision_model.embeddings.patch_embedding.*"),
    Row("image.blocks.*.attention.qkv.*", "vision_model.encoder.layers.*.self_attn.qkv.*"),
    Row("image.blocks.*.attention.out.*", "vision_model.encoder.layers.*.self_attn.projection.*"),
    Row("image.blocks.*.norm_attention.*", "vision_model.encoder.layers.*.layer_norm1.*"),
    Row("image.blocks.*.norm_mlp.*", "vision_model.encoder.layers.*.layer_norm2.*"),
    Row("image.blocks.*.mlp.up.*", "vision_model.encoder.layers.*.mlp.fc1.*"),
    Row("image.blocks.*.mlp.down.*", "vision_model.encoder.layers.*.mlp.fc2.*"),
    Row("image.final_norm.*", "vision_model.post_layernorm.*"),
    Row("bridge.qformer.query_tokens", "query_tokens", leading=1),
    Row("bridge.qformer.word_embeddings.weight", "embeddings.word_embeddings.weight"),
    Row("bridge.qformer.position_embeddings.weight", "embeddings.position_embeddings.weight"),
    Row("bridge.qformer.norm.*", "qformer.layernorm.*"),
    *layer_rows("qformer.encoder.layer.*", "attention"),
    Row("bridge.image_head.*", "vision_projection.*"),
    Row("bridge.text_head.*", "text_projection.*"),
    Row("bridge.matching_head.*", "itm_head.*"),
    Row("bridge.to_language.*", "language_projection.*"),
)
# Counters 0, 1, 2, … that old versions stored.
IGNORED = ("embeddings.position_ids", "qformer.embeddings.position_ids")


def load(folder: Path, name: str, allow_pickle: bool = True) -> LoadedVisionLanguage:
    """Load a folder, in its stored dtype.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    config = huggingface.read_json(folder / "config.json")
    retrieval = RETRIEVAL in (config.get("architectures") or ())
    tensors = read_tensors(folder, huggingface.STEMS, allow_pickle, separately=True)
    tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    others = {key: tensor for key, tensor in tensors.items() if not key.startswith(LANGUAGE_PREFIX)}
    language, language_tokenizer = None, None
    if not retrieval:
        language = language_model_from_tensors(
            config.get("text_config") or {},
            {key.removeprefix(LANGUAGE_PREFIX): t for key, t in tensors.items() if key.startswith(LANGUAGE_PREFIX)},
            folder,
            stored_dtype=True,
        )
        language_tokenizer = read_language_tokenizer(folder)
    settings = bridge_settings(config, retrieval, language)
    both = nn.ModuleDict(
        {
            "image": build_empty(VisionTransformer, vision_settings(config)),
            "bridge": build_empty(Bridge, settings),
        }
    )
    load_foreign(both, others, ROWS, IGNORED, stored_dtype=True)
    tokenizer = None
    if retrieval:
        tokenizer = tokenizer_from_folder(folder, "bert", settings.qformer.max_position_embeddings)
    return LoadedVisionLanguage(
        both["image"],
        foreign_preprocessing.from_huggingface(folder, "Blip"),
        both["bridge"],  # type: ignore[arg-type]
        language,
        language_tokenizer,
        tokenizer,
        Prompts(),
        name,
    )


def vision_settings(config: Mapping[str, Any]) -> VisionSettings:
    """Return the settings of BLIP-2's vision transformer."""
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
    """Return the settings of the Q-Former with the heads of stage 1 or the projection to the language model."""
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
            cross_attention_frequency=qformer["cross_attention_frequency"],
            vocabulary=qformer["vocab_size"] if retrieval else 0,
            max_position_embeddings=qformer["max_position_embeddings"],
            norm_eps=qformer["layer_norm_eps"],
        ),
        embedding=config.get("image_text_hidden_size", 256) if retrieval else 0,
        language_width=0 if language is None else language.width,
        inference_only=True,  # the published checkpoints carry neither generation head nor temperature
    )


def writer(loaded: LoadedVisionLanguage) -> Writer:
    """Prepare the export to transformers' BLIP-2.

    Raises:
        DoesNotFit: the model is of another architecture.
    """
    try:
        checkpoint = to_blip2(loaded)
        pixels = foreign_preprocessing.to_huggingface(loaded.preprocessing, "Blip")
    except ModelError as error:
        raise DoesNotFit([str(error)]) from error
    if checkpoint.dropped:
        warn(loaded.name, f"{checkpoint.architecture} has no place for {', '.join(checkpoint.dropped)}; left out")

    def write(folder: Path) -> None:
        write_json(folder / huggingface.CONFIG, checkpoint.config)
        write_json(folder / foreign_preprocessing.PREPROCESSOR_CONFIG, pixels)
        save_file(checkpoint.tensors, folder / WEIGHTS, metadata={"format": "pt"})
        write_language_tokenizer(loaded, checkpoint.config, folder)
        example = transformers_example(checkpoint.architecture)
        title = loaded.name or "A vision-language model"
        (folder / CARD).write_text(f"# {title}\n\n```python\n{example}\n```\n", "utf-8")

    return write


@dataclass(frozen=True)
class Blip2Checkpoint:
    """A model as transformers' BLIP-2 stores it, and the parts of it that are dropped because BLIP-2 lacks them."""

    architecture: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    dropped: list[str]


def to_blip2(loaded: LoadedVisionLanguage) -> Blip2Checkpoint:
    """Return the config and the tensors of a model of this architecture: the inverse of ``load``.

    With a language model it becomes a ``Blip2ForConditionalGeneration``, which has nothing of stage 1; without one, a
    ``Blip2ForImageTextRetrieval``.

    Raises:
        ModelError: it is of another architecture; the message says what differs.
    """
    retrieval = loaded.language is None
    if not isinstance(loaded.image, VisionTransformer):
        raise ModelError(f"its image tower is {type(loaded.image).__name__}, not a vision transformer")
    bridge = loaded.bridge.settings
    vocabulary = bridge.qformer.vocabulary if retrieval else 0
    wanted = replace(
        bridge,
        qformer=replace(bridge.qformer, vocabulary=vocabulary, dropout=0.0),
        embedding=bridge.embedding if retrieval else 0,
        language_width=0 if retrieval else bridge.language_width,
        global_tokens=0 if retrieval else bridge.global_tokens,
        global_prompts=0 if retrieval else bridge.global_prompts,
        inference_only=True,
    )
    config = _config(loaded, wanted)
    there = bridge_settings(config, retrieval, loaded.language)
    for ours, theirs in ((loaded.image.settings, vision_settings(config)), (wanted, there)):
        here, other = asdict(ours), asdict(theirs)
        if different := [f"{name} is {here[name]} and not {other[name]}" for name in here if here[name] != other[name]]:
            raise ModelError("; ".join(different))
    kept = build_empty(Bridge, wanted).state_dict()
    own = {f"image.{name}": tensor for name, tensor in loaded.image.state_dict().items()}
    own |= {f"bridge.{name}": tensor for name, tensor in loaded.bridge.state_dict().items() if name in kept}
    lost = [name for name in loaded.bridge.state_dict() if name not in kept]
    parts = {
        "text_feed_forward" if ".text_feed_forward." in name else name.removeprefix("qformer.").split(".")[0]
        for name in lost
    }
    return Blip2Checkpoint(
        RETRIEVAL if retrieval else GENERATION,
        config,
        {**to_foreign(own, ROWS), **_language_tensors(loaded)},
        sorted(parts),
    )


def write_language_tokenizer(loaded: LoadedVisionLanguage, config: Mapping[str, Any], folder: Path) -> None:
    """Write the tokenizer of the texts, and the processor's config."""
    if loaded.language is None or loaded.language_tokenizer is None:
        if loaded.tokenizer is not None:
            write_tokenizer(loaded.tokenizer, folder, TOKENIZER_FAMILIES["bert"])
        return
    tokenizer = tokenizers.Tokenizer.from_str(loaded.language_tokenizer.to_str())
    tokenizer.add_special_tokens([IMAGE_TOKEN])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = loaded.language.module.config
    marks = {f"{mark}_token": getattr(text, f"{mark}_token_id", None) for mark in ("bos", "eos", "pad")}
    named = {mark: tokenizer.id_to_token(token) for mark, token in marks.items() if isinstance(token, int)}
    values = {"tokenizer_class": "PreTrainedTokenizerFast", **{mark: name for mark, name in named.items() if name}}
    (folder / "tokenizer_config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    processor = {"processor_class": "Blip2Processor", "num_query_tokens": config["num_query_tokens"]}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n", "utf-8")
    loaded.language.module.generation_config.save_pretrained(folder)


def _config(loaded: LoadedVisionLanguage, bridge: BridgeSettings) -> dict[str, Any]:
    image, qformer = loaded.image.settings, bridge.qformer
    dropout = loaded.bridge.settings.qformer.dropout
    config: dict[str, Any] = {
        "architectures": [RETRIEVAL if loaded.language is None else GENERATION],
        "model_type": "blip-2",
        "dtype": "float32",
        "num_query_tokens": qformer.queries,
        "vision_config": {
            "model_type": "blip_2_vision_model",
            **huggingface.vision_config(image),  # type: ignore[arg-type]
            "qkv_bias": image.qkv_bias,  # type: ignore[union-attr]
        },
        "qformer_config": {
            "model_type": "blip_2_qformer",
            "hidden_size": qformer.width,
            "num_hidden_layers": qformer.layers,
            "num_attention_heads": qformer.heads,
            "intermediate_size": qformer.mlp_width,
            "hidden_act": "gelu",
            "max_position_embeddings": qformer.max_position_embeddings,
            "layer_norm_eps": qformer.norm_eps,
            "cross_attention_frequency": qformer.cross_attention_frequency,
            "encoder_hidden_size": qformer.image_width,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "use_qformer_text_input": bool(qformer.vocabulary),
        },
    }
    if qformer.vocabulary:
        config["qformer_config"]["vocab_size"] = qformer.vocabulary
    if bridge.embedding:
        config["image_text_hidden_size"] = bridge.embedding
    if loaded.language is not None and loaded.language_tokenizer is not None:
        mark = loaded.language_tokenizer.token_to_id(IMAGE_TOKEN)
        mark = loaded.language_tokenizer.get_vocab_size() if mark is None else mark
        rows = loaded.language.module.get_input_embeddings().weight.shape[0]
        if mark >= rows:
            raise ModelError(
                f"all {rows} rows of its language model are taken by words; none is left for {IMAGE_TOKEN}"
            )
        config["text_config"] = loaded.language.module.config.to_dict()
        config["image_token_index"] = config["image_token_id"] = mark
    return config


def _language_tensors(loaded: LoadedVisionLanguage) -> dict[str, Tensor]:
    """Return the language model's tensors; one that is tied is stored once."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    stored = {} if loaded.language is None else loaded.language.module.state_dict()
    for name, tensor in stored.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            result[LANGUAGE_PREFIX + name] = tensor.detach().cpu().contiguous()
    return result
