"""Our own folder: everything that a dual encoder is, in files that hold no code.

    beholder.json            settings of network, preprocessing and tokenizer
    model.safetensors        the tensors, by our names
    tokenizer.json           as the library ``tokenizers`` writes it
    calibration.safetensors  where the model has a calibration
    README.md                the model card

It is written aside and then renamed, so a folder is whole or not there, and it loads again bit for bit.
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
        InvalidSetting: the folder is there and holds something else than a model of ours.
    """
    replace_folder(folder, FILES, lambda whole: _write(loaded, whole))


def replace_folder(folder: Path, files: Collection[str], write: Callable[[Path], None]) -> None:
    """Has a folder written aside and puts it in the place of what was there, so that it is whole or not there.

    Args:
        folder: the place.
        files: what a model's folder may hold; one that holds something else is left alone.
        write: fills an empty folder.

    Raises:
        InvalidSetting: the folder is there and holds something else than a model of ours.
    """
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= set(files)):
        raise InvalidSetting(f"{folder.absolute()}: holds something else than a model; name a new folder")
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
    """The settings of a folder of ours, in one of the versions that can be read.

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
    """SHA-256 of everything that decides a vector: tensors, settings, preprocessing and tokenizer, in hexadecimal.

    Vectors of two models may be compared only where their fingerprints are the same.
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
