"""The trained heads of `mini` on disk: heads.safetensors and beholder.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.layers import Head
from beholder.models.text_encoder import TextEncoderSettings
from beholder.weights.mini import SECOND

WEIGHTS, CONFIG = "heads.safetensors", "beholder.json"


def write_heads(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write the heads in half precision, but for the logit scale."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{WEIGHTS}"
    save_file({name: each.half().contiguous() if each.ndim else each for name, each in tensors.items()}, aside)
    aside.replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_heads(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, in single precision, and the settings."""
    tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    return tensors, json.loads((folder / CONFIG).read_text(encoding="utf-8"))


class Projection(nn.Module):
    """A trained head: pooled features to unit vectors of the shared space."""

    def __init__(self, head: Head):
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        """(…, D) → (…, E)."""
        return F.normalize(self.head(features.flatten(0, -2)), dim=-1).unflatten(0, features.shape[:-1])


def read_projections(folder: Path) -> dict[str, Projection]:
    """Return the heads ``image``, ``text`` and, where it is trained, ``multilingual``."""
    tensors, config = read_heads(folder)
    network = TwoTowersSettings.from_dict(config["network"])
    heads = {
        "image": ("image_head.", Head(network.image_head, network.image.width, network.embedding)),
        "text": ("text_head.", Head(network.text_head, network.text.width, network.embedding)),
    }
    if "multilingual" in config:
        second = TextEncoderSettings.from_dict(config["multilingual"])
        heads["multilingual"] = (f"{SECOND}text_head.", Head(second.text_head, second.text.width, second.embedding))
    for prefix, head in heads.values():
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        head.load_state_dict(own)
    return {name: Projection(head.eval()).requires_grad_(False) for name, (_, head) in heads.items()}
