"""The front door: a name or a folder becomes a network that is ready to run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionTransformer
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer_files import TokenizerKind, tokenizer_from_folder
from beholder.weights import (
    chinese_clip,
    clip,
    dinov2,
    huggingface,
    open_clip,
    ours,
    sentence_transformers,
    siglip,
    vit,
)
from beholder.weights import preprocessing as foreign_preprocessing
from beholder.weights.loaded import LoadedDualEncoder, LoadedImageEncoder
from beholder.weights.sources import find, naming
from beholder.weights.table import Row, build_empty, load_foreign
from beholder.weights.tensors import read_tensors, weight_files

IMAGE_ONLY = ("vit", "dinov2", "dinov2_with_registers")


@dataclass(frozen=True)
class Foreign:
    """What a foreign folder says of itself, before any weights are put into a network."""

    settings: TwoTowersSettings
    rows: tuple[Row, ...]
    ignored: tuple[str, ...]
    preprocessing: Preprocessing
    tokenizer_kind: TokenizerKind


def load_dual_encoder(
    name: str | Path, *, revision: str | None = None, allow_pickle: bool = False
) -> LoadedDualEncoder:
    """Load a dual encoder in any of the formats that are known, onto the CPU, as float32, ready to run.

    Ours; Hugging Face's CLIP, SigLIP, SigLIP 2 with pictures of a fixed size, Chinese-CLIP; open_clip;
    sentence-transformers' CLIP layout.

    Args:
        name: ``"mini"``, a folder, or a hub id such as ``"openai/clip-vit-base-patch32"``.
        revision: for a hub id, the branch, tag or commit; one commit serves all files.
        allow_pickle: read weights from a pickle (with ``weights_only``) where there are no safetensors.

    Raises:
        ModelNotFound: nothing is there.
        DownloadFailed: a part could not be fetched.
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: the folder holds no dual encoder that is known.
    """
    folder = find(name, revision=revision, allow_pickle=allow_pickle)
    with naming(name):
        if (folder / ours.CONFIG).is_file():
            return ours.load_dual_encoder(folder)
        if (folder / sentence_transformers.LIST).is_file():
            folder = sentence_transformers.clip_folder(folder)
        network, foreign = load_foreign_network(folder, allow_pickle)
        text = foreign.settings.text
        full_length = isinstance(text, TextTransformerSettings) and text.full_length
        tokenizer = tokenizer_from_folder(folder, foreign.tokenizer_kind, text.context_length, full_length)
        return LoadedDualEncoder(network, foreign.preprocessing, tokenizer, name=str(name))


def load_image_encoder(
    name: str | Path, *, revision: str | None = None, allow_pickle: bool = False
) -> LoadedImageEncoder:
    """Load an image tower that comes without text: Hugging Face's ViT and DINOv2, with or without a classifier.

    The arguments and errors are those of ``load_dual_encoder``.
    """
    folder = find(name, revision=revision, allow_pickle=allow_pickle)
    with naming(name):
        config = huggingface.read_json(folder / "config.json")
        model_type = config.get("model_type")
        if model_type not in IMAGE_ONLY:
            raise ModelError(f"model type {model_type} is no image encoder that is known ({', '.join(IMAGE_ONLY)})")
        tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
        ignored: tuple[str, ...] = ()
        if model_type == "vit":
            settings, rows = vit.settings(config, tensors), vit.rows(config)
            preprocessing = foreign_preprocessing.from_huggingface(folder, "ViT")
        else:
            settings, rows, ignored = dinov2.settings(config), dinov2.rows(config), dinov2.ignored(config)
            preprocessing = foreign_preprocessing.from_huggingface(folder, "Bit")
        network = load_foreign(build_empty(VisionTransformer, settings), tensors, rows, ignored)
        labels = huggingface.labels(config) if settings.classes else ()
        return LoadedImageEncoder(network, preprocessing, labels, str(name))


def load_foreign_network(folder: Path, allow_pickle: bool = False) -> tuple[TwoTowers, Foreign]:
    """The network of a folder in a foreign format, and what the folder says of itself; the tokenizer is not read."""
    names = [path.name for path in folder.iterdir()]
    if open_clip.CONFIG in names and not ("config.json" in names and weight_files(names, huggingface.STEMS)):
        tensors = read_tensors(folder, open_clip.STEMS, allow_pickle)
        foreign = _read_open_clip(folder, tensors)
    else:
        foreign = _read_huggingface(folder)
        tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
    return load_foreign(build_empty(TwoTowers, foreign.settings), tensors, foreign.rows, foreign.ignored), foreign


def _read_huggingface(folder: Path) -> Foreign:
    config = huggingface.read_json(folder / "config.json")
    match config.get("model_type"):
        case "clip":
            pixels = foreign_preprocessing.from_huggingface(folder, "CLIP")
            return Foreign(clip.settings(config), clip.ROWS, clip.IGNORED, pixels, "clip")
        case "siglip":
            pixels = foreign_preprocessing.from_huggingface(folder, "Siglip")
            return Foreign(siglip.settings(config), siglip.ROWS, siglip.IGNORED, pixels, "siglip")
        case "chinese_clip":
            pixels = foreign_preprocessing.from_huggingface(folder, "ChineseCLIP")
            return Foreign(chinese_clip.settings(config), chinese_clip.ROWS, chinese_clip.IGNORED, pixels, "bert")
        case "siglip2":
            raise ModelError(
                "this is a SigLIP 2 of the NaFlex kind, whose pictures keep their own shape; it is not covered. "
                "Those with pictures of a fixed size are (google/siglip2-base-patch16-224)"
            )
        case model_type if model_type in IMAGE_ONLY:
            raise ModelError(f"a {model_type} sees pictures and reads no sentences: use load_image_encoder")
        case model_type:
            raise ModelError(f"model type {model_type} is not known; known are clip, siglip and chinese_clip")


def _read_open_clip(folder: Path, tensors: Mapping[str, Tensor]) -> Foreign:
    config: Mapping[str, Any] = huggingface.read_json(folder / open_clip.CONFIG)
    model = config.get("model_cfg")
    if not isinstance(model, dict):
        raise ModelError(f"{open_clip.CONFIG} has no model_cfg")
    settings = open_clip.settings(model)
    pixels = foreign_preprocessing.from_open_clip(config.get("preprocess_cfg") or {}, settings.image)  # type: ignore[arg-type]
    rows = open_clip.rows(tensors, settings.text_head.bias)
    return Foreign(settings, rows, open_clip.IGNORED, pixels, open_clip.tokenizer_kind(model))
