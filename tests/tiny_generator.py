"""A tiny random image generator, and the config of a training run that takes a second."""

from pathlib import Path
from typing import Any

import torch

import tiny_model
from beholder.models.diffusion_transformer import DiffusionTransformerSettings
from beholder.models.prior import PriorSettings
from beholder.models.unclip import Unclip, UnclipSettings
from beholder.training.config_file import validate
from beholder.training.generator_config import GeneratorConfig
from beholder.weights.native import save_dual_encoder
from beholder.weights.native_generator import LoadedImageGenerator
from random_weights import enlarge

DECODER = {
    "image_size": 16,
    "patch_size": 4,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "mlp_width": 24,
    "condition_width": 12,
    "context_tokens": 2,
    "merge": 2,
    "outer_width": 8,
    "map_channels": 3,
    "map_hidden": 12,
}
PRIOR = {"width": 16, "layers": 1, "hidden": 24}
TRAIN = {
    "steps": 9,
    "batch": 4,
    "prior_batch": 6,
    "muon_lr_scale": 2,
    "save_every": 4,
    "report_every": 1,
    "learning_rate": 3e-3,
}


def build() -> LoadedImageGenerator:
    """Build an image generator with reproducible random weights; 16 × 16 pixels."""
    torch.manual_seed(0)
    decoder = DiffusionTransformerSettings(tiny_model.EMBEDDING, **DECODER)
    network = Unclip(UnclipSettings(decoder, PriorSettings(tiny_model.EMBEDDING, **PRIOR)))
    return LoadedImageGenerator(enlarge(network), tiny_model.build(), "tiny", "apache-2.0")


def settings(folder: Path, **train: Any) -> dict[str, Any]:
    """Return the settings of a training in a folder that `tiny_pairs.paint` has filled; write its encoder there."""
    if not (folder / "encoder").exists():
        save_dual_encoder(tiny_model.build(), folder / "encoder")
    return {
        "data": {"train": str(folder / "pairs.jsonl")},
        "model": {"encoder": str(folder / "encoder"), "decoder": DECODER, "prior": PRIOR, "name": "walls"},
        "train": {**TRAIN, **train},
    }


def config(folder: Path, **train: Any) -> GeneratorConfig:
    """Return the config of such a training."""
    return validate(settings(folder, **train), GeneratorConfig, "test")
