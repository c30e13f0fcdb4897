"""``mini``'s image generator: prior and decoder in eight bits, and the heads of the dual encoder in front of them.

That dual encoder has the two frozen towers of ``mini``, so only its heads are stored:

    generator.json           settings of prior and decoder
    generator.safetensors    their tensors, in eight bits
    beholder.json            settings of the dual encoder
    heads.safetensors        its heads, in eight bits, too
    calibration.safetensors  if it has a calibration

The parts are assembled into a folder of Beholder's format in the cache. Finding that folder does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.errors import InvalidSetting
from beholder.weights import mini_parts
from beholder.weights.cache import cache_folder

if TYPE_CHECKING:
    from beholder.weights.native_generator import LoadedImageGenerator

FOLDER = Path(__file__).parent / "mini_generator"
WEIGHTS, SETTINGS = "generator.safetensors", "generator.json"
HEADS, HEADS_SETTINGS = "heads.safetensors", "beholder.json"
TOWERS = ("image.", "text.")  # begin the names of the dual encoder's frozen tensors
BUILD = 1  # incremented when the assembled folder changes


def save(loaded: LoadedImageGenerator, folder: Path) -> None:
    """Write what `assemble` needs beside the towers of ``mini``.

    Raises:
        InvalidSetting: the dual encoder's towers are not those of ``mini``, or it has a second text tower.
    """
    import torch
    from safetensors.torch import save_file

    from beholder.weights import mini
    from beholder.weights.eight_bits import pack
    from beholder.weights.loaded import LoadedDualEncoder
    from beholder.weights.native import load_dual_encoder

    if isinstance(loaded.encoder, str):
        raise InvalidSetting("the dual encoder in front of the generator is mini itself; it needs heads of its own")
    encoder = loaded.encoder if isinstance(loaded.encoder, LoadedDualEncoder) else load_dual_encoder(loaded.encoder)
    if encoder.multilingual is not None:
        raise InvalidSetting("the dual encoder has a second text tower, which can't be stored")
    tower = mini.image_tower()
    tower.classifier = None
    frozen = {f"image.{name}": tensor for name, tensor in tower.state_dict().items()}
    frozen |= {f"text.{name}": tensor for name, tensor in mini.text_tower().state_dict().items()}
    own = encoder.network.state_dict()
    if {name for name in own if name.startswith(TOWERS)} != set(frozen) or any(
        not torch.equal(own[name].cpu(), tensor) for name, tensor in frozen.items()
    ):
        raise InvalidSetting("the towers of the dual encoder are not those of mini")
    folder.mkdir(parents=True, exist_ok=True)
    config = {"name": loaded.name, "licence": loaded.licence, "network": loaded.network.settings.to_dict()}
    (folder / SETTINGS).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    save_file(pack(loaded.network.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})
    described = {"network": encoder.network.settings.to_dict(), "preprocessing": asdict(encoder.preprocessing)}
    (folder / HEADS_SETTINGS).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    heads = {name: tensor for name, tensor in own.items() if name not in frozen}
    save_file(pack(heads), folder / HEADS, metadata={"format": "pt"})
    if encoder.calibration is not None:
        encoder.calibration.save(folder)


def assemble(folder: Path = FOLDER) -> LoadedImageGenerator:
    """Join what `save` wrote with the towers of ``mini``.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        DownloadFailed: a tower could not be fetched.
    """
    from beholder.models.unclip import Unclip, UnclipSettings
    from beholder.weights import mini
    from beholder.weights.eight_bits import unpack
    from beholder.weights.huggingface import read_json
    from beholder.weights.native_generator import LoadedImageGenerator
    from beholder.weights.table import build_empty, load_native_tensors
    from beholder.weights.tensors import read_tensors

    config = read_json(folder / SETTINGS)
    empty = build_empty(Unclip, UnclipSettings.from_dict(config["network"]))
    network = load_native_tensors(empty, unpack(read_tensors(folder, ("generator",), allow_pickle=False)))
    return LoadedImageGenerator(network, mini.assemble(folder), config["name"], config["licence"])


def model_folder(folder: Path = FOLDER) -> Path:
    """Return the folder of the assembled generator, whether or not it exists; each build has its own."""
    digest = hashlib.sha256(str(BUILD).encode())
    for file in sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors")):
        digest.update(file.read_bytes())
    for part in (mini_parts.IMAGE_TOWER, mini_parts.TEXT_TOWER):
        digest.update(part.sha256.encode())
    return cache_folder() / "models" / f"mini-generator-{digest.hexdigest()[:12]}"


def folder() -> Path:
    """Return the folder of ``mini``'s image generator in Beholder's format, assembling it on first use.

    Raises:
        DownloadFailed: a tower could not be fetched.
    """
    finished = model_folder(FOLDER)
    if not finished.exists():
        from beholder.weights.native_generator import save_image_generator

        save_image_generator(assemble(FOLDER), finished)
    return finished
