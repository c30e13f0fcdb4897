"""Beholder's own format of a dual encoder: one folder, and no code in it.

    beholder.json            settings of network, preprocessing and tokenizer
    model.safetensors        the tensors, by our names
    tokenizer.json           as the library ``tokenizers`` writes it
    calibration.safetensors  if the model has a calibration
    README.md                the model card

A model with a second text tower, for texts in other scripts, also has multilingual.safetensors,
multilingual-tokenizer.json and multilingual-calibration.safetensors.

It is written atomically, and loads again bit for bit.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from beholder.errors import InvalidSetting, ModelError
from beholder.files import atomic_folder
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.text_encoder import TextEncoder, TextEncoderSettings
from beholder.pictures.preprocess import read_preprocessing
from beholder.text import tokenizer
from beholder.text.tokenizer import Tokenizer
from beholder.weights import calibration
from beholder.weights.calibration import Calibration
from beholder.weights.card import model_card
from beholder.weights.huggingface import read_json
from beholder.weights.loaded import LoadedDualEncoder, LoadedTextEncoder
from beholder.weights.table import build_empty, load_native_tensors
from beholder.weights.tensors import read_tensors

CONFIG = "beholder.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
FORMAT = "beholder dual encoder"
VERSION = 1
MULTILINGUAL_VERSION = 2  # with a second text tower
MULTILINGUAL_WEIGHTS = "multilingual.safetensors"
MULTILINGUAL_FILES = {MULTILINGUAL_WEIGHTS, tokenizer.MULTILINGUAL_FILE, calibration.MULTILINGUAL_FILE}
# Settings that came after fingerprints had been stored with vectors: at their default they are not part of it, so that
# vectors computed before them stay usable.
LATER_SETTINGS = {"final_norm": False}
FILES = {CONFIG, WEIGHTS, CARD, tokenizer.FILE, calibration.FILE} | MULTILINGUAL_FILES


def save_dual_encoder(loaded: LoadedDualEncoder, folder: Path) -> None:
    """Write a folder that ``load_dual_encoder`` loads again bit for bit.

    Raises:
        InvalidSetting: the folder exists and holds something other than a model.
    """
    replace_folder(folder, FILES, lambda whole: _write(loaded, whole))


def replace_folder(folder: Path, files: Collection[str], write: Callable[[Path], None]) -> None:
    """Write a model's folder atomically, replacing one that exists.

    Args:
        folder: destination.
        files: names that a model's folder may hold; a folder with other files is left alone.
        write: writes the files into an empty folder.

    Raises:
        InvalidSetting: the folder exists and holds something other than a model.
    """
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= set(files)):
        raise InvalidSetting(f"{folder.absolute()}: holds something other than a model; name a new folder")
    with atomic_folder(folder, replace=True) as whole:
        write(whole)


def load_dual_encoder(folder: Path) -> LoadedDualEncoder:
    """Read what ``save_dual_encoder`` wrote.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing, broken, or of a newer version.
    """
    config = read_config(folder, FORMAT, VERSION, MULTILINGUAL_VERSION)
    try:
        settings = TwoTowersSettings.from_dict(config["network"])
        preprocessing = read_preprocessing(config["preprocessing"])
        tokenizer = Tokenizer.load(folder, config["tokenizer"])
    except (KeyError, TypeError, InvalidSetting) as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from error
    tensors = read_tensors(folder, (WEIGHTS.removesuffix(".safetensors"),))
    return LoadedDualEncoder(
        load_native_tensors(build_empty(TwoTowers, settings), tensors),
        preprocessing,
        tokenizer,
        Calibration.load(folder),
        config.get("name", ""),
        config.get("licence", ""),
        load_multilingual(folder, config["multilingual"]) if "multilingual" in config else None,
    )


def load_multilingual(folder: Path, config: dict[str, Any]) -> LoadedTextEncoder:
    """Read the second text tower of a folder in Beholder's format.

    Args:
        folder: of the model.
        config: the tower's settings.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    try:
        settings = TextEncoderSettings.from_dict(config["network"])
        second = Tokenizer.load(folder, config["tokenizer"], tokenizer.MULTILINGUAL_FILE)
    except (KeyError, TypeError, InvalidSetting) as error:
        raise ModelError(f"{folder / CONFIG}: multilingual: {error}") from error
    tensors = read_tensors(folder, (MULTILINGUAL_WEIGHTS.removesuffix(".safetensors"),))
    return LoadedTextEncoder(
        load_native_tensors(build_empty(TextEncoder, settings), tensors),
        second,
        Calibration.load(folder, calibration.MULTILINGUAL_FILE),
    )


def read_config(folder: Path, kind: str, *versions: int) -> dict[str, Any]:
    """Return the settings of a folder in Beholder's format, of a version that can be read.

    Raises:
        ModelError: the file is missing, broken, or of another kind or version.
    """
    config = read_json(folder / CONFIG)
    if config.get("format") != kind or config.get("version") not in versions:
        raise ModelError(
            f"{folder / CONFIG}: is of format {config.get('format')!r}, version {config.get('version')}; "
            f"this Beholder reads {kind!r}, version {' or '.join(map(str, versions))}"
        )
    return config


def fingerprint(loaded: LoadedDualEncoder) -> str:
    """Return a hexadecimal SHA-256 of all that determines an embedding: tensors, settings, preprocessing, tokenizer.

    Embeddings of two models may be compared only if their fingerprints are equal.
    """
    digest = sha256(json.dumps(_description(loaded), sort_keys=True).encode())
    for part in (loaded, loaded.multilingual):
        if part is not None:
            digest.update(part.tokenizer.backend.to_str().encode())
            for name, tensor in sorted(part.network.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _description(loaded: LoadedDualEncoder) -> dict[str, Any]:
    """Return the settings that determine an embedding, without those of `LATER_SETTINGS` that have their default."""

    def known_before(settings: dict[str, Any]) -> dict[str, Any]:
        return {
            name: known_before(value) if isinstance(value, dict) else value
            for name, value in settings.items()
            if not (name in LATER_SETTINGS and value is LATER_SETTINGS[name])
        }

    description: dict[str, Any] = {
        "network": loaded.network.settings.to_dict(),
        "preprocessing": asdict(loaded.preprocessing),
        "tokenizer": asdict(loaded.tokenizer.settings),
    }
    if loaded.multilingual is not None:
        description["multilingual"] = {
            "network": loaded.multilingual.network.settings.to_dict(),
            "tokenizer": asdict(loaded.multilingual.tokenizer.settings),
        }
    return known_before(description)


def _write(loaded: LoadedDualEncoder, folder: Path) -> None:
    version = VERSION if loaded.multilingual is None else MULTILINGUAL_VERSION
    header = {"format": FORMAT, "version": version, "name": loaded.name, "licence": loaded.licence}
    config = json.dumps({**header, **_description(loaded)}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(config + "\n", "utf-8")
    _save_tensors(loaded.network, folder / WEIGHTS)
    loaded.tokenizer.save(folder)
    if loaded.calibration is not None:
        loaded.calibration.save(folder)
    if loaded.multilingual is not None:
        _save_tensors(loaded.multilingual.network, folder / MULTILINGUAL_WEIGHTS)
        loaded.multilingual.tokenizer.save(folder, tokenizer.MULTILINGUAL_FILE)
        if loaded.multilingual.calibration is not None:
            loaded.multilingual.calibration.save(folder, calibration.MULTILINGUAL_FILE)
    (folder / CARD).write_text(model_card(loaded), "utf-8")


def _save_tensors(network: nn.Module, file: Path) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, file, metadata={"format": "pt"})
