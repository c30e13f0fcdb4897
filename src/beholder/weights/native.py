"""Beholder's own format of a dual encoder: one folder, and no code in it.

    beholder.json            settings of network, preprocessing and tokenizer
    model.safetensors        the tensors, by our names
    tokenizer.json           as the library ``tokenizers`` writes it
    calibration.safetensors  if the model has a calibration
    README.md                the model card

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

from beholder.errors import InvalidSetting, ModelError
from beholder.files import atomic_folder
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.pictures.transform import Preprocessing
from beholder.text import tokenizer
from beholder.text.tokenizer import Tokenizer
from beholder.weights import calibration
from beholder.weights.calibration import Calibration
from beholder.weights.card import model_card
from beholder.weights.huggingface import read_json
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.table import build_empty, load_native_tensors
from beholder.weights.tensors import read_tensors

CONFIG = "beholder.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
FORMAT = "beholder dual encoder"
VERSION = 1
FILES = {CONFIG, WEIGHTS, CARD, tokenizer.FILE, calibration.FILE}


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
    config = read_config(folder, FORMAT, VERSION)
    try:
        settings = TwoTowersSettings.from_dict(config["network"])
        preprocessing = Preprocessing(**config["preprocessing"])
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
    digest.update(loaded.tokenizer.backend.to_str().encode())
    for name, tensor in sorted(loaded.network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _description(loaded: LoadedDualEncoder) -> dict[str, Any]:
    return {
        "network": loaded.network.settings.to_dict(),
        "preprocessing": asdict(loaded.preprocessing),
        "tokenizer": asdict(loaded.tokenizer.settings),
    }


def _write(loaded: LoadedDualEncoder, folder: Path) -> None:
    header = {"format": FORMAT, "version": VERSION, "name": loaded.name, "licence": loaded.licence}
    config = json.dumps({**header, **_description(loaded)}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(config + "\n", "utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in loaded.network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    loaded.tokenizer.save(folder)
    if loaded.calibration is not None:
        loaded.calibration.save(folder)
    (folder / CARD).write_text(model_card(loaded), "utf-8")
