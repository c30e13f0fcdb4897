"""Pipelines of diffusers: a folder with a ``model_index.json`` and a folder for each part.

The text towers are loaded into our own networks; denoiser, autoencoder and scheduler are those of diffusers. Only
safetensors are read, and no code of the checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.errors import MissingExtra, ModelError
from beholder.models.prompt_encoder import PromptEncoder, PromptEncoderSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.text.tokenizer import Tokenizer
from beholder.text.tokenizer_files import tokenizer_from_folder
from beholder.weights.clip import IGNORED, MISTAKEN_END_ID, TEXT_DEFAULTS, TEXT_ROWS
from beholder.weights.huggingface import CONFIG, STEMS, block_settings, read_json
from beholder.weights.quiet_transformers import quiet_transformers
from beholder.weights.sources import PIPELINE_INDEX
from beholder.weights.table import Row, build_empty, load_foreign
from beholder.weights.tensors import read_tensors

# The pipelines that can be driven, each with the folders of its text towers and their tokenizers.
PIPELINES = {
    "StableDiffusionPipeline": (("text_encoder", "tokenizer"),),
    "StableDiffusionXLPipeline": (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")),
    "KandinskyV22Pipeline": (),
}


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline of diffusers without its text towers, and these as our own networks.

    Attributes:
        pipeline: of diffusers.
        kind: its class.
        encoders: the text towers.
        tokenizers: of each tower.
        name: of the model.
    """

    pipeline: Any
    kind: str
    encoders: Sequence[PromptEncoder]
    tokenizers: Sequence[Tokenizer]
    name: str


@quiet_transformers()
def load_pipeline(folder: Path, name: str) -> LoadedPipeline:
    """Load a pipeline onto the CPU, in single precision.

    Raises:
        ModelError: its class is not known, or a part is missing or broken.
        WeightsMismatch: a tensor of a text tower is missing, unexpected or of another shape.
        MissingExtra: diffusers is not installed.
    """
    index = read_json(folder / PIPELINE_INDEX)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ModelError(f"{folder / PIPELINE_INDEX}: a {kind!r} can't be driven; known are {', '.join(PIPELINES)}")
    parts = [part for part, value in index.items() if isinstance(value, list) and value and value[0] is not None]
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ModelError(f"{folder}: the folder {missing[0]} is missing; only a part of the pipeline is here")
    towers = [pair for pair in PIPELINES[kind] if pair[0] in parts]
    if PIPELINES[kind] and not towers:
        raise ModelError(f"{folder}: has no text tower")
    encoders = [load_prompt_encoder(folder / tower) for tower, _ in towers]
    tokenizers = [
        tokenizer_from_folder(folder / tokenizer, "clip", encoder.settings.text.context_length, full_length=True)
        for (_, tokenizer), encoder in zip(towers, encoders, strict=True)
    ]
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra("a pipeline of diffusers", "generate") from error
    diffusers.utils.logging.disable_progress_bar()
    without = dict.fromkeys(part for pair in PIPELINES[kind] for part in pair)
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(
            folder, **without, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{folder}: diffusers can't load this pipeline ({reason})") from error
    pipeline.set_progress_bar_config(disable=True)
    return LoadedPipeline(pipeline, kind, encoders, tokenizers, name)


def load_prompt_encoder(folder: Path) -> PromptEncoder:
    """Load transformers' ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken, or it is another network.
    """
    config = {**TEXT_DEFAULTS, **read_json(folder / CONFIG)}
    if config.get("model_type") != "clip_text_model":
        raise ModelError(f"{folder / CONFIG}: a text tower of type {config.get('model_type')!r} is not known")
    tensors = read_tensors(folder, STEMS, allow_pickle=False)
    projected = "text_projection.weight" in tensors
    end_id = config["eos_token_id"]
    text = TextTransformerSettings(
        vocabulary=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        **block_settings(config),
        pooling="highest_id" if end_id == MISTAKEN_END_ID else "end",
        end_id=end_id,
    )
    settings = PromptEncoderSettings(text, len(tensors["text_projection.weight"]) if projected else 0)
    rows = (*TEXT_ROWS, *([Row("projection.weight", "text_projection.weight")] if projected else []))
    prefix = "" if any(tensor.startswith("text_model.") for tensor in tensors) else "text_model."
    named = {
        tensor if tensor == "text_projection.weight" else prefix + tensor: value for tensor, value in tensors.items()
    }
    return load_foreign(build_empty(PromptEncoder, settings), named, rows, IGNORED)
