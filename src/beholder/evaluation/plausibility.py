"""Faults of a checkpoint that every implementation shares, because all read the same files.

Comparing embeddings can't show them. They show in contradictions between two files or two parts of one, and in settings
that no published model has.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beholder.errors import BeholderError
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.naflex import NaFlexSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.pictures.preprocess import AnyPreprocessing
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer import Tokenizer
from beholder.weights import open_clip
from beholder.weights.huggingface import read_json
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.preprocessing import CLIP_MEAN, CLIP_STD, HALF, from_open_clip

# (mean, std) that the published dual encoders were trained with: CLIP's, SigLIP's, ImageNet's, none.
PUBLISHED = (
    (CLIP_MEAN, CLIP_STD),
    (HALF, HALF),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
# Settings that change every embedding and leave no trace in the shape of a tensor.
SHAPELESS = ("activation", "heads", "norm_eps")
# A tokenizer may be a little smaller than the embedding table, which is often rounded up.
MIN_VOCABULARY_RATIO = 0.9


def activation_faults(network: TwoTowersSettings) -> Iterator[str]:
    """Yield a fault if the two towers of a CLIP have different activations: they are always trained with one."""
    image, text = network.image, network.text
    if (
        isinstance(image, VisionSettings | NaFlexSettings)
        and isinstance(text, TextTransformerSettings)
        and image.activation != text.activation
    ):
        yield (
            f"activation: the config asks for {image.activation} in the image tower and {text.activation} in the text "
            "tower; such models are trained with one activation, so one of the two entries is wrong"
        )


def pixel_faults(preprocessing: AnyPreprocessing, network: TwoTowersSettings) -> Iterator[str]:
    """Yield faults of the preprocessing: mean and std of no published model, or a size other than the network's."""
    found = (preprocessing.mean, preprocessing.std)
    if not any(_close(found, known) for known in PUBLISHED):
        yield (
            f"mean and std: pictures are normalized by mean {_short(found[0])} and std {_short(found[1])}, which no "
            "published model of these formats was trained with; unless this one was, the preprocessor's config is wrong"
        )
    image = network.image
    if isinstance(image, VisionSettings) and isinstance(preprocessing, Preprocessing):
        size = (preprocessing.height, preprocessing.width)
        if size != (image.image_height, image.image_width):
            yield (
                f"size: pictures are resized to {size[0]} x {size[1]}, but the network expects "
                f"{image.image_height} x {image.image_width}"
            )


def vocabulary_faults(tokenizer: Tokenizer, network: TwoTowersSettings) -> Iterator[str]:
    """Yield signs that the tokenizer belongs to another network."""
    rows, pieces, settings = network.text.vocabulary, tokenizer.backend.get_vocab_size(), tokenizer.settings
    if pieces > rows:
        yield f"the tokenizer has {pieces} tokens and the network only {rows}: it is another model's"
    elif pieces < MIN_VOCABULARY_RATIO * rows:
        yield f"the tokenizer has only {pieces} of the network's {rows} tokens: it is another model's"
    if not isinstance(network.text, TextTransformerSettings):
        return
    if network.text.pooling == "end" and network.text.end_id != settings.end_id:
        yield (
            f"the network pools at the end token {network.text.end_id} and the tokenizer appends "
            f"{settings.end_id}: the tokenizer is another model's, or the config's eos_token_id is wrong"
        )
    if network.text.pooling == "highest_id" and settings.end_id < pieces - 1:
        yield (
            f"the network pools at the highest id of a sentence, and the tokenizer's end token "
            f"{settings.end_id} is not the highest of its {pieces}: it may pool at other tokens"
        )


def contradictions(folder: Path, loaded: LoadedDualEncoder) -> Iterator[str]:
    """Yield contradictions between the configs of two formats in one folder, as there are on the hub."""
    if not (folder / open_clip.CONFIG).is_file() or not (folder / "config.json").is_file():
        return
    try:
        config = read_json(folder / open_clip.CONFIG)
        other = open_clip.settings(config["model_cfg"])
        pixels = from_open_clip(config.get("preprocess_cfg") or {}, other.image)  # type: ignore[arg-type]
    except (BeholderError, KeyError, TypeError):
        return  # that network is not covered, so its description says nothing here
    for tower in ("image", "text"):
        here, there = asdict(getattr(loaded.network.settings, tower)), asdict(getattr(other, tower))
        for setting in SHAPELESS:
            if here.get(setting) != there.get(setting):
                yield (
                    f"{setting}: config.json says {here.get(setting)} for the {tower} tower and {open_clip.CONFIG} "
                    f"says {there.get(setting)}"
                )
    for setting in ("mean", "std"):
        ours, theirs = getattr(loaded.preprocessing, setting), getattr(pixels, setting)
        if not _close((ours,), (theirs,)):
            yield (
                f"{setting}: the preprocessor's config says {_short(ours)} and {open_clip.CONFIG} says {_short(theirs)}"
            )


def summary(loaded: LoadedDualEncoder) -> str:
    """Return the settings that no file can confirm, for a person to compare with the model's source."""
    network, pixels = loaded.network.settings, loaded.preprocessing
    activations = {str(tower.activation) for tower in (network.image, network.text) if hasattr(tower, "activation")}
    return (
        f"no contradictions; activation {' and '.join(sorted(activations))}, mean {_short(pixels.mean)}, "
        f"std {_short(pixels.std)}"
    )


def _close(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return all(
        abs(one - other) < 1e-3
        for these, those in zip(first, second, strict=True)
        for one, other in zip(these, those, strict=True)
    )


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
