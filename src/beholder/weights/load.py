"""The front door: from a name, a folder or a hub id to a model that is ready to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import tokenizers
from torch import nn

from beholder.errors import InvalidSetting, ModelError, ModelNotFound
from beholder.models.efficientnet import EfficientNet
from beholder.models.language_model import LanguageModel
from beholder.models.naflex import NaFlexTransformer
from beholder.pictures.transform import Preprocessing
from beholder.weights import formats
from beholder.weights.formats import Kind, Loaded
from beholder.weights.image_text_to_text import LoadedImageTextToText
from beholder.weights.language_models import read_language_model
from beholder.weights.loaded import LoadedDualEncoder, LoadedImageEncoder, LoadedVisionLanguage
from beholder.weights.smolvlm import LoadedSmolVLM
from beholder.weights.sources import find_model

Wanted = TypeVar("Wanted", LoadedDualEncoder, LoadedVisionLanguage, LoadedImageEncoder)


def load_dual_encoder(name: str | Path, *, revision: str | None = None, allow_pickle: bool = True) -> LoadedDualEncoder:
    """Load a dual encoder of any known format onto the CPU, in single precision, ready to run.

    Beholder's own; Hugging Face's CLIP, SigLIP, SigLIP 2, Chinese-CLIP; open_clip;
    sentence-transformers' CLIP layout.

    Args:
        name: ``"mini"``, a folder, or a hub id such as ``"openai/clip-vit-base-patch32"``.
        revision: for a hub id, the branch, tag or commit; one commit serves all files.
        allow_pickle: if there are no safetensors, read a pickle by torch's restricted unpickler, once, and keep it as
            safetensors in the cache. False refuses pickles.

    Raises:
        ModelNotFound: there is no such model.
        DownloadFailed: a part could not be fetched.
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: the folder holds no dual encoder of a known format.
    """
    return _load(name, LoadedDualEncoder, revision, allow_pickle)


def load_vision_language(
    name: str | Path, *, revision: str | None = None, allow_pickle: bool = True
) -> LoadedVisionLanguage:
    """Load a model with a bridge onto the CPU, ready to run: ``mini``, Beholder's own format, Hugging Face's BLIP-2.

    The arguments and errors are those of `load_dual_encoder`.
    """
    loaded = load_any_vision_language(name, revision=revision, allow_pickle=allow_pickle)
    if not isinstance(loaded, LoadedVisionLanguage):
        raise ModelError(f"{name}: a {loaded.model_type} has no bridge (Q-Former), which this needs")
    return loaded


def load_any_vision_language(
    name: str | Path, *, revision: str | None = None, allow_pickle: bool = True, stored_dtype: bool = False
) -> LoadedVisionLanguage | LoadedSmolVLM | LoadedImageTextToText:
    """Load a model with a bridge, a SmolVLM, or any other vision-language model that transformers runs.

    The other arguments and the errors are those of `load_dual_encoder`.

    Args:
        stored_dtype: leave the weights of a BLIP-2 in the dtype of its files, so that they exist only once.
    """
    if name == "mini":
        from beholder.weights import mini_bridge

        name = mini_bridge.folder()
    loaded = _open(name, *KINDS[LoadedVisionLanguage], revision, allow_pickle)
    if not isinstance(loaded, LoadedVisionLanguage | LoadedSmolVLM | LoadedImageTextToText):
        raise TypeError(f"{name}: a {type(loaded).__name__} is no vision-language model")
    return loaded.float() if isinstance(loaded, LoadedVisionLanguage) and not stored_dtype else loaded


def load_image_encoder(
    name: str | Path, *, revision: str | None = None, allow_pickle: bool = True
) -> LoadedImageEncoder:
    """Load an image tower that comes without text: Hugging Face's ViT and DINOv2, with or without a classifier.

    The arguments and errors are those of `load_dual_encoder`.
    """
    return _load(name, LoadedImageEncoder, revision, allow_pickle)


def load_image_tower(name: str | Path) -> tuple[nn.Module, Preprocessing]:
    """Load the image tower of a dual encoder, a vision-language model or an image encoder, in single precision.

    The errors are those of `load_dual_encoder`.
    """
    folder = find_model(name)
    with error_context(name):
        loaded = formats.recognize(folder).load(folder, str(name), True)
    tower: nn.Module
    match loaded:
        case LoadedVisionLanguage():
            tower = loaded.image
        case LoadedDualEncoder():
            tower = loaded.network.image
        case LoadedImageEncoder():
            tower = loaded.network
        case LoadedImageTextToText() | LoadedSmolVLM():
            raise ModelError(f"{name}: the image tower of a {loaded.model_type} can't be taken out of it")
    if isinstance(tower, EfficientNet | NaFlexTransformer) or not isinstance(loaded.preprocessing, Preprocessing):
        raise ModelError(
            f"{name}: its image tower, of the kind {type(tower).__name__}, can't be taken out of it; take a model with "
            "a vision transformer, such as google/siglip2-base-patch16-224"
        )
    return tower.float().requires_grad_(False).eval(), loaded.preprocessing


def load_frozen_language_model(name: str) -> tuple[LanguageModel, tokenizers.Tokenizer]:
    """Load a language model and its tokenizer from a folder of transformers, a hub id, or a GGUF file.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    file = Path(name).expanduser()
    if file.suffix == ".gguf":
        if not file.is_file():
            raise ModelNotFound(f"{name}: no such file")
        return read_language_model(file.parent, file.name)
    return read_language_model(find_model(name))


# The kind of each class, and how a model of another kind is refused.
KINDS: dict[type[Loaded], tuple[Kind, str]] = {
    LoadedDualEncoder: (formats.DUAL_ENCODER, "not a dual encoder: use load_vision_language"),
    LoadedVisionLanguage: (formats.VISION_LANGUAGE_MODEL, "not a vision-language model"),
    LoadedImageEncoder: (formats.IMAGE_ENCODER, "not an image encoder by itself"),
}


def _load(name: str | Path, wanted: type[Wanted], revision: str | None, allow_pickle: bool) -> Wanted:
    loaded = _open(name, *KINDS[wanted], revision, allow_pickle)
    if not isinstance(loaded, wanted):
        raise TypeError(f"{name}: loaded a {type(loaded).__name__}, not a {wanted.__name__}")
    return loaded


def _open(name: str | Path, kind: Kind, refusal: str, revision: str | None, allow_pickle: bool) -> Loaded:
    folder = find_model(name, revision=revision, allow_pickle=allow_pickle)
    with error_context(name):
        row = formats.recognize(folder)
        if row.kind != kind:
            if kind == formats.DUAL_ENCODER and row.kind == formats.IMAGE_ENCODER:
                raise ModelError(f"a {row.model_type} embeds pictures only, not sentences: use load_image_encoder")
            raise ModelError(f"this is a {row.kind} ({row.name}), {refusal}")
        return row.load(folder, str(name), allow_pickle)


@contextmanager
def error_context(name: str | Path) -> Iterator[None]:
    """Make errors about a model name it, if they do not already; a config that lacks a setting is such an error."""
    try:
        yield
    except (ModelError, InvalidSetting) as error:
        if str(name) in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error.__cause__
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{name}: its config is not one of its kind ({type(error).__name__}: {error})") from error
