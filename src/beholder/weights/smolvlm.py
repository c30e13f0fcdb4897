"""SmolVLM2 (``SmolVLMForConditionalGeneration``): a SigLIP tower, pixel shuffle and a Llama-like language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from beholder.errors import ModelError, WeightsMismatch
from beholder.models.connector import Connector, ConnectorSettings
from beholder.models.language_model import LanguageModel
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.weights import huggingface
from beholder.weights.language_models import language_model_from_tensors
from beholder.weights.smolvlm_processor import SmolVLMProcessor, read_processor
from beholder.weights.table import Row, build_empty, load_foreign
from beholder.weights.tensors import read_tensors

MODEL_TYPE = "smolvlm"
# Defaults of transformers 5.24.
VISION_DEFAULTS = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT_DEFAULTS = {"model_type": "llama", "rms_norm_eps": 1e-5}
POSITIONS = "vision_model.embeddings.position_embedding.weight"
LANGUAGE_PREFIXES = {"text_model.": "model.", "lm_head.": "lm_head."}
ROWS = (
    Row("image.patches.*", "vision_model.embeddings.patch_embedding.*"),
    Row("image.positions", POSITIONS),
    Row("image.final_norm.*", "vision_model.post_layernorm.*"),
    *huggingface.encoder_rows("image", "vision_model"),
    Row("connector.to_language.weight", "connector.modality_projection.proj.weight"),
)


@dataclass(frozen=True)
class LoadedSmolVLM:
    """A SmolVLM with its processor.

    Attributes:
        image: the vision tower, for one tile.
        connector: image tokens to soft prompts.
        language: the language model.
        processor: makes pictures and texts ready.
        suppress_tokens: tokens that are never generated.
        name: the model's name.
    """

    image: VisionTransformer
    connector: Connector
    language: LanguageModel
    processor: SmolVLMProcessor
    suppress_tokens: tuple[int, ...] = ()
    name: str = ""
    model_type: ClassVar[str] = MODEL_TYPE


def load(folder: Path, name: str, allow_pickle: bool = True) -> LoadedSmolVLM:
    """Load a folder onto the CPU, in single precision.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken, or there is no chat template.
    """
    config = huggingface.read_json(folder / huggingface.CONFIG)
    processor = read_processor(folder)
    tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
    tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    others = {key: value for key, value in tensors.items() if not key.startswith(tuple(LANGUAGE_PREFIXES))}
    text = {**TEXT_DEFAULTS, **(config.get("text_config") or {})}
    text["tie_word_embeddings"] = config.get("tie_word_embeddings", False)
    language = language_model_from_tensors(
        text,
        {
            ours + key.removeprefix(theirs): tensor
            for key, tensor in tensors.items()
            for theirs, ours in LANGUAGE_PREFIXES.items()
            if key.startswith(theirs)
        },
        folder,
    )
    settings = vision_settings(config, processor.tiling.tile_size)
    connector = ConnectorSettings(config.get("scale_factor", 2), settings.width, language.width)
    _check_tokens(config, processor, settings, connector)
    networks = nn.ModuleDict(
        {"image": build_empty(VisionTransformer, settings), "connector": build_empty(Connector, connector)}
    )
    if POSITIONS in others:
        others[POSITIONS] = _positions(config, others[POSITIONS], settings)
    load_foreign(networks, others, ROWS)
    generation = language.module.generation_config
    return LoadedSmolVLM(
        networks["image"],  # type: ignore[arg-type]
        networks["connector"],  # type: ignore[arg-type]
        language,
        processor,
        _suppressed(generation.suppress_tokens, generation.bad_words_ids),
        name,
    )


def vision_settings(config: Mapping[str, Any], tile_size: int) -> VisionSettings:
    """Return the settings of the vision tower for tiles of this size."""
    vision = huggingface.section(config, "vision_config", VISION_DEFAULTS)
    return VisionSettings(
        image_height=tile_size,
        image_width=tile_size,
        patch_size=huggingface.patch_size(vision),
        **huggingface.block_settings(vision),
        class_token=False,
        pooling="mean",
    )


def _check_tokens(
    config: Mapping[str, Any], processor: SmolVLMProcessor, settings: VisionSettings, connector: ConnectorSettings
) -> None:
    rows, columns = settings.patch_grid
    factor = connector.scale_factor
    if rows % factor or rows * columns != processor.image_seq_len * factor**2:
        raise ModelError(
            f"a tile of {settings.image_height} pixels gives {rows} x {columns} image tokens, and pixel shuffle by "
            f"{factor} must leave {processor.image_seq_len} of them: config.json and the processor's files disagree"
        )
    found = config.get("image_token_id")
    if found is not None and found != processor.image_token_id:
        raise ModelError(
            f"the config says that {found} is the image token, and the tokenizer {processor.image_token_id}"
        )


def _positions(config: Mapping[str, Any], table: Tensor, settings: VisionSettings) -> Tensor:
    """Return the position embeddings of a tile's patches (h·w, D), from the table that the network was trained with.

    SmolVLM looks positions up by the fraction of the picture at which a patch begins (NaViT, arXiv:2307.06304); the
    rounding of these fractions in float32 is part of it.
    """
    vision = huggingface.section(config, "vision_config", VISION_DEFAULTS)
    side = huggingface.image_size(vision)[0] // settings.patch_size
    if table.ndim != 2 or len(table) != side**2:
        raise WeightsMismatch(f"{POSITIONS}: {len(table)} positions instead of {side**2}")
    count = settings.patch_grid[0]
    fractions = (torch.arange(count, dtype=torch.float32) * (1.0 / torch.tensor(count))).clamp(max=1.0 - 1e-6)
    places = torch.bucketize(fractions, torch.arange(1 / side, 1.0, 1 / side), right=True)
    return table[(places[:, None] * side + places).flatten()]


def _suppressed(tokens: list[int] | None, bad_words: list[list[int]] | None) -> tuple[int, ...]:
    """Return the tokens that the generation config forbids; forbidden sequences of several tokens are not covered."""
    single = [word[0] for word in bad_words or () if len(word) == 1]
    if bad_words and len(single) < len(bad_words):
        raise ModelError("generation_config.json forbids sequences of several tokens (bad_words_ids): not covered")
    return tuple(sorted({*(tokens or ()), *single}))
