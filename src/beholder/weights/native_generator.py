"""Beholder's own format of an image generator: one folder, and no code in it.

    beholder.json      settings of the networks
    model.safetensors  the tensors of decoder and prior, by our names
    encoder/           the dual encoder whose embeddings drive them, in Beholder's format, unless that is `mini`
    README.md          the model card

It is written atomically, and loads again bit for bit.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from beholder.errors import InvalidSetting, ModelError
from beholder.models.unclip import Unclip, UnclipSettings
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import (
    CARD,
    CONFIG,
    WEIGHTS,
    load_dual_encoder,
    read_config,
    replace_folder,
    save_dual_encoder,
)
from beholder.weights.table import build_empty, load_native_tensors
from beholder.weights.tensors import read_tensors

FORMAT = "beholder image generator"
VERSION = 1
ENCODER = "encoder"
FILES = {CONFIG, WEIGHTS, CARD, ENCODER}
MINI: Literal["mini"] = (
    "mini"  # the only encoder that a folder may name: one from elsewhere can't make another model be downloaded
)


@dataclass(frozen=True)
class LoadedImageGenerator:
    """An image generator.

    Attributes:
        network: decoder and prior.
        encoder: the dual encoder whose embeddings drive it: ``"mini"``, a folder, or the model itself.
        name: of the model.
        licence: that of the weights, as the model card states it; empty if unknown.
    """

    network: Unclip
    encoder: Literal["mini"] | Path | LoadedDualEncoder
    name: str = ""
    licence: str = ""


def load_image_generator(folder: Path) -> LoadedImageGenerator:
    """Read what `save_image_generator` wrote.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing, broken, or of another format or version.
    """
    config = read_config(folder, FORMAT, VERSION)
    try:
        settings = UnclipSettings.from_dict(config["network"])
        encoder = config["encoder"]
    except (KeyError, TypeError, AttributeError, InvalidSetting) as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from error
    if encoder not in (MINI, ENCODER):
        raise ModelError(f"{folder / CONFIG}: the encoder must be {MINI!r} or {ENCODER!r}, not {encoder!r}")
    if encoder == ENCODER and not (folder / ENCODER / CONFIG).is_file():
        raise ModelError(f"{folder}: the folder {ENCODER} with the dual encoder is missing; only half of it is here")
    network = load_native_tensors(build_empty(Unclip, settings), read_tensors(folder, ("model",), allow_pickle=False))
    return LoadedImageGenerator(
        network.float(),
        MINI if encoder == MINI else folder / ENCODER,
        config.get("name", ""),
        config.get("licence", ""),
    )


def save_image_generator(loaded: LoadedImageGenerator, folder: Path) -> None:
    """Write a folder that `load_image_generator` loads again bit for bit.

    Raises:
        InvalidSetting: the folder exists and holds something other than a model.
    """
    replace_folder(folder, FILES, lambda whole: _write(loaded, whole))


def _write(loaded: LoadedImageGenerator, folder: Path) -> None:
    config = {
        "format": FORMAT,
        "version": VERSION,
        "name": loaded.name,
        "licence": loaded.licence,
        "network": loaded.network.settings.to_dict(),
        "encoder": MINI if isinstance(loaded.encoder, str) else ENCODER,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in loaded.network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    encoder = loaded.encoder
    if not isinstance(encoder, str):
        save_dual_encoder(
            encoder if isinstance(encoder, LoadedDualEncoder) else load_dual_encoder(encoder), folder / ENCODER
        )
    (folder / CARD).write_text(_card(loaded), "utf-8")


def _card(loaded: LoadedImageGenerator) -> str:
    decoder, prior = loaded.network.settings.decoder, loaded.network.settings.prior
    drawn = f"diffusion transformer, {decoder.layers} layers of width {decoder.width}"
    drawn += f", patches of {decoder.patch_size} pixels"
    million = sum(weight.numel() for weight in loaded.network.parameters()) / 1e6
    front = f"---\nlicense: {loaded.licence}\n---\n\n" if loaded.licence else ""
    return f"""{front}# {loaded.name or "An image generator"}

It draws pictures of {decoder.image_size} × {decoder.image_size} pixels from embeddings of sentences and pictures.

| | |
|---|---|
| decoder | {drawn} |
| prior | residual MLP, {prior.layers} layers of width {prior.width} |
| embedding | {decoder.embedding} numbers |
| parameters | {million:.1f} million |
| licence | {loaded.licence or "not recorded; that of the weights it was made from"} |

```python
from beholder import ImageGenerator

generator = ImageGenerator.from_pretrained("this folder")
generator.generate("a red heart")[0].image.save("heart.png")
```

What it draws follows from the pictures it was trained on, prejudices included.
"""
