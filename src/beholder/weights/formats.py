"""Every checkpoint format that can be opened, one row each: how it is recognized, loaded, exported and checked.

To add one: write a module that reads its settings and has its table of names, and add a row. Loading, ``export``,
``doctor``, ``models``, ``pull`` and downloads from the hub all go by this table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from beholder.errors import ModelError
from beholder.weights import (
    align,
    altclip,
    blip2,
    chinese_clip,
    clip,
    dinov2,
    huggingface,
    image_text_to_text,
    metaclip2,
    native,
    native_vision_language,
    open_clip,
    sentence_transformers,
    siglip,
    siglip2_naflex,
    smolvlm,
    vit,
)
from beholder.weights.exporting import Writer
from beholder.weights.foreign_dual_encoder import load_dual_encoder
from beholder.weights.image_encoder_layout import load_image_encoder
from beholder.weights.image_text_to_text import LoadedImageTextToText
from beholder.weights.loaded import LoadedDualEncoder, LoadedImageEncoder, LoadedVisionLanguage
from beholder.weights.smolvlm import LoadedSmolVLM
from beholder.weights.tensors import weight_files
from beholder.weights.transformers_layout import TransformersLayout, read_network, writer

Kind = Literal["dual encoder", "vision-language model", "image encoder"]
DUAL_ENCODER: Kind = "dual encoder"
VISION_LANGUAGE_MODEL: Kind = "vision-language model"
IMAGE_ENCODER: Kind = "image encoder"
Loaded = LoadedDualEncoder | LoadedVisionLanguage | LoadedSmolVLM | LoadedImageTextToText | LoadedImageEncoder


@dataclass(frozen=True)
class Format:
    """One checkpoint format.

    Attributes:
        name: what people call it.
        kind: what such a checkpoint holds.
        marker: the file by which it is recognized.
        load: from the folder, the model's name and whether pickles may be read.
        model_type: what the marker has to say it holds, by the entry of `TYPE_ENTRIES`; empty where it says nothing.
        stems: names of its weight files, without their suffix.
        reference: the library that `doctor` compares with.
        exports_to: the library that opens what ``writer`` writes.
        writer: prepares the files for a model, or raises `DoesNotFit`.
        applies: a further condition on the names of a folder's files.
        is_family: whether a ``model_type`` is one of many that the format covers.
    """

    name: str
    kind: Kind
    marker: str
    load: Callable[[Path, str, bool], Loaded]
    model_type: str = ""
    stems: tuple[str, ...] = huggingface.STEMS
    reference: Literal["", "transformers", "open_clip"] = "transformers"
    exports_to: Literal["", "transformers", "open_clip"] = ""
    writer: Callable[..., Writer] | None = None
    applies: Callable[[Sequence[str]], bool] = lambda names: True
    is_family: Callable[[object], bool] = lambda model_type: False


def transformers_dual_encoder(layout: TransformersLayout) -> Format:
    """The row of a dual encoder of transformers."""
    return Format(
        layout.name,
        DUAL_ENCODER,
        huggingface.CONFIG,
        partial(load_dual_encoder, partial(read_network, layout)),
        layout.model_type,
        exports_to="transformers" if layout.config else "",
        writer=partial(writer, layout) if layout.config else None,
    )


def without_transformers_weights(names: Sequence[str]) -> bool:
    """Whether a folder lacks the weights that would go with a ``config.json`` of transformers."""
    return not (huggingface.CONFIG in names and weight_files(names, huggingface.STEMS))


OTHER = "any that transformers' AutoModelForImageTextToText opens"
TYPE_ENTRIES = {native.CONFIG: "format", huggingface.CONFIG: "model_type"}


def _load_from_modules(folder: Path, name: str, allow_pickle: bool) -> Loaded:
    inner = sentence_transformers.clip_folder(folder)
    return recognize(inner, in_modules=True).load(inner, name, allow_pickle)


FORMATS = (
    Format(
        "Beholder's vision-language model",
        VISION_LANGUAGE_MODEL,
        native.CONFIG,
        lambda folder, name, pickle: native_vision_language.load_vision_language(folder),
        native_vision_language.FORMAT,
        reference="",
    ),
    Format(
        "Beholder's dual encoder",
        DUAL_ENCODER,
        native.CONFIG,
        lambda folder, name, pickle: native.load_dual_encoder(folder),
        reference="",
    ),
    Format(
        "sentence-transformers' CLIP",
        DUAL_ENCODER,
        sentence_transformers.LIST,
        _load_from_modules,
    ),
    Format(
        "open_clip",
        DUAL_ENCODER,
        open_clip.CONFIG,
        partial(load_dual_encoder, open_clip.read_network),
        stems=open_clip.STEMS,
        reference="open_clip",
        exports_to="open_clip",
        writer=open_clip.writer,
        applies=without_transformers_weights,
    ),
    transformers_dual_encoder(clip.LAYOUT),
    transformers_dual_encoder(siglip.LAYOUT),
    transformers_dual_encoder(siglip2_naflex.LAYOUT),
    transformers_dual_encoder(chinese_clip.LAYOUT),
    transformers_dual_encoder(metaclip2.LAYOUT),
    transformers_dual_encoder(altclip.LAYOUT),
    transformers_dual_encoder(align.LAYOUT),
    Format(
        "BLIP-2",
        VISION_LANGUAGE_MODEL,
        huggingface.CONFIG,
        blip2.load,
        "blip-2",
        exports_to="transformers",
        writer=blip2.writer,
    ),
    Format("SmolVLM2", VISION_LANGUAGE_MODEL, huggingface.CONFIG, smolvlm.load, smolvlm.MODEL_TYPE),
    Format("ViT", IMAGE_ENCODER, huggingface.CONFIG, partial(load_image_encoder, vit.LAYOUT), "vit"),
    Format("DINOv2", IMAGE_ENCODER, huggingface.CONFIG, partial(load_image_encoder, dinov2.LAYOUT), "dinov2"),
    Format(
        "DINOv2 with registers",
        IMAGE_ENCODER,
        huggingface.CONFIG,
        partial(load_image_encoder, dinov2.LAYOUT),
        "dinov2_with_registers",
    ),
    Format(
        "another vision-language model of transformers",
        VISION_LANGUAGE_MODEL,
        huggingface.CONFIG,
        image_text_to_text.load,
        OTHER,
        is_family=image_text_to_text.opens,
    ),
)
# Families that are known and refused, by the model type of their config: why, and what to use instead.
REFUSED = {
    "clipseg": "this is a CLIPSeg, which segments pictures; for vectors take the CLIP that it was made from (clip)",
    "groupvit": "this is a GroupViT, which segments pictures; for vectors take openai/clip-vit-base-patch32 (clip)",
    "owlvit": "this is an OWL-ViT, which finds objects; for vectors take openai/clip-vit-base-patch32 (clip)",
    "owlv2": "this is an OWLv2, which finds objects; for vectors take openai/clip-vit-base-patch32 (clip)",
    "xclip": "this is an X-CLIP, which reads videos; for pictures take openai/clip-vit-base-patch32 (clip)",
    "flava": "this is a FLAVA, which is not covered; take openai/clip-vit-base-patch32 (clip)",
    "vision-text-dual-encoder": "this is a dual encoder put together from two models of transformers, which is not "
    "covered; train one with beholder train clip, or take google/siglip2-base-patch16-224 (siglip2)",
}
MARKERS = tuple(dict.fromkeys(row.marker for row in FORMATS))
STEMS = tuple(dict.fromkeys(stem for row in FORMATS for stem in row.stems))


def recognize(folder: Path, *, in_modules: bool = False) -> Format:
    """Return the format of a folder.

    Args:
        folder: the folder of a checkpoint.
        in_modules: this is the folder that sentence-transformers' ``modules.json`` points to, and may lie in as well.

    Raises:
        ModelError: it is none that can be opened, or its config is missing or broken.
    """
    names = [path.name for path in folder.iterdir()]
    for marker in MARKERS:
        rows = [row for row in FORMATS if row.marker == marker and row.applies(names)]
        if marker not in names or not rows or (in_modules and marker == sentence_transformers.LIST):
            continue
        found = huggingface.read_json(folder / marker).get(TYPE_ENTRIES[marker]) if marker in TYPE_ENTRIES else ""
        for row in rows:
            if row.model_type in ("", found):
                return row
        if found in REFUSED:
            raise ModelError(REFUSED[found])
        for row in rows:
            if row.is_family(found):
                return row
        if "auto_map" in huggingface.read_json(folder / marker):
            raise ModelError(
                f"a {found} needs code from the hub, which is never run; take a checkpoint that transformers knows by "
                'itself (often called "-hf"), or serve it elsewhere and name its address'
            )
        known = ", ".join(row.model_type for row in rows)
        raise ModelError(f"model type {found} is not known; known are {known}")
    raise ModelError(f"{folder / huggingface.CONFIG}: this file is needed and missing")
