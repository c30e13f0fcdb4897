"""What lets a pipeline of diffusers draw after pictures: transformers' image tower, and the weights of an IP-Adapter.

Only safetensors are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import ModelError, ModelNotFound
from beholder.models.image_prompt_encoder import ImagePromptEncoder, ImagePromptEncoderSettings
from beholder.pictures.transform import Preprocessing
from beholder.weights.clip import IGNORED, PROJECTION_DEFAULT, VISION_DEFAULTS, VISION_ROWS, vision_settings
from beholder.weights.huggingface import CONFIG, STEMS, read_json
from beholder.weights.preprocessing import CLIP_MEAN, CLIP_STD, PREPROCESSOR_CONFIG, from_huggingface
from beholder.weights.table import Row, build_empty, load_foreign
from beholder.weights.tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

ENCODER_FOLDER = "image_encoder"  # beside an adapter, and in a pipeline
PLAIN_PROJECTION = "image_proj.proj.weight"


@dataclass(frozen=True)
class LoadedImagePromptEncoder:
    """An image tower with its preprocessing."""

    network: ImagePromptEncoder
    preprocessing: Preprocessing


@dataclass(frozen=True)
class IPAdapter:
    """The tensors of an IP-Adapter (arXiv:2308.06721), in the groups that diffusers takes, and its image tower."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    encoder: LoadedImagePromptEncoder


def load_image_prompt_encoder(folder: Path) -> LoadedImagePromptEncoder:
    """Load transformers' ``CLIPVisionModelWithProjection``.

    Where the folder has no preprocessing, CLIP's is taken.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken, or it is another network.
    """
    config = {"projection_dim": PROJECTION_DEFAULT, **VISION_DEFAULTS, **read_json(folder / CONFIG)}
    if config.get("model_type") != "clip_vision_model":
        raise ModelError(f"{folder / CONFIG}: an image tower of type {config.get('model_type')!r} is not known")
    settings = ImagePromptEncoderSettings(vision_settings(config), config["projection_dim"])
    rows = (*VISION_ROWS, Row("projection.weight", "visual_projection.weight"))
    tensors = read_tensors(folder, STEMS, allow_pickle=False)
    network = load_foreign(build_empty(ImagePromptEncoder, settings), tensors, rows, IGNORED)
    if (folder / PREPROCESSOR_CONFIG).is_file():
        return LoadedImagePromptEncoder(network, from_huggingface(folder, "CLIP"))
    side = settings.image.image_height
    return LoadedImagePromptEncoder(
        network, Preprocessing(side, side, "crop", resize=side, mean=CLIP_MEAN, std=CLIP_STD)
    )


def load_ip_adapter(file: Path, encoder: Path | None = None) -> IPAdapter:
    """Load an IP-Adapter.

    Args:
        file: its safetensors.
        encoder: the folder of the image tower; by default ``image_encoder`` beside the file.

    Raises:
        ModelNotFound: there is no such file, or no image tower beside it.
        ModelError: it is no IP-Adapter, one of another kind, or one of another image tower.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = file.parent / ENCODER_FOLDER if encoder is None else encoder
    if file.suffix != ".safetensors" or not file.is_file():
        raise ModelNotFound(f"{file}: an IP-Adapter is a file .safetensors")
    if not folder.is_dir():
        raise ModelNotFound(f"{folder}: the folder with the image tower of the IP-Adapter is missing; name another")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: cannot be read as safetensors ({error})") from error
    groups: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise ModelError(f"{file}: {name} is no tensor of an IP-Adapter")
        groups[group][rest] = tensor
    if PLAIN_PROJECTION not in tensors:
        raise ModelError(f"{file}: only IP-Adapters that take one embedding of a picture are known, not Plus or Face")
    loaded = load_image_prompt_encoder(folder)
    expected, size = tensors[PLAIN_PROJECTION].shape[1], loaded.network.settings.projection
    if size != expected:
        raise ModelError(f"{file}: takes embeddings of {expected} numbers, and {folder} makes some of {size}")
    return IPAdapter(groups, loaded)
