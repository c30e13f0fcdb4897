"""Export a model to the formats of other software: transformers, open_clip, ONNX.

A format's module says how our settings are written in its config, and how its config is read. It can express a network
if the config, read again, gives the same settings; the table of names that imports tensors exports them, too.
"""

import warnings
from pathlib import Path
from typing import Literal, get_args

from beholder.errors import InvalidSetting, ModelError
from beholder.text.tokenizer_files import FILE
from beholder.weights import open_clip
from beholder.weights.exporting import CARD, WEIGHTS, DoesNotFit, Writer
from beholder.weights.exporting import ExportWarning as ExportWarning
from beholder.weights.formats import DUAL_ENCODER, FORMATS, VISION_LANGUAGE_MODEL
from beholder.weights.huggingface import CONFIG
from beholder.weights.loaded import LoadedDualEncoder, LoadedVisionLanguage
from beholder.weights.native import replace_folder

Target = Literal["transformers", "open_clip", "onnx"]
MAX_DIFFERENCES = 4  # in a message
# Everything that any of the formats writes; a folder with other files in it is left alone.
FILES = {CONFIG, WEIGHTS, CARD, FILE, "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"} | {
    *("generation_config.json", open_clip.CONFIG, open_clip.WEIGHTS, "image.onnx", "text.onnx", "export.json"),
}


def export(loaded: LoadedDualEncoder | LoadedVisionLanguage, format: Target, folder: Path) -> None:
    """Write a model into a folder that other software opens.

    ``transformers``: ``CLIPModel``, ``SiglipModel``, ``ChineseCLIPModel``, or, for a vision-language model,
    ``Blip2ForConditionalGeneration`` or ``Blip2ForImageTextRetrieval``. ``open_clip``: its config with safetensors.
    ``onnx``: both towers of any dual encoder as graphs.

    Args:
        loaded: the model.
        format: the software that is to open it.
        folder: a new folder, or one that this function wrote before, which is replaced as a whole.

    Raises:
        ModelError: the format can't express the network; the message says what differs and what works instead.
        InvalidSetting: the folder exists and holds other files, or there is no such format.
        MissingExtra: the format needs an optional dependency.

    Warns:
        ExportWarning: pictures or texts will be preprocessed slightly differently there.
    """
    if format not in get_args(Target):
        raise InvalidSetting(f"format {format!r} is none of {', '.join(get_args(Target))}")
    if isinstance(loaded, LoadedDualEncoder) and loaded.multilingual is not None:
        warnings.warn(
            f"{loaded.name}: its second text tower, for other scripts than Latin, is not exported", ExportWarning, 2
        )
    if isinstance(loaded, LoadedVisionLanguage):
        write = _vision_language_writer(loaded, format)
    elif format == "onnx":
        from beholder.weights.onnx import write_onnx

        write = lambda whole: write_onnx(loaded, whole)  # noqa: E731
    else:
        write = _dual_encoder_writer(loaded, format)
    replace_folder(folder, FILES, write)


def _dual_encoder_writer(loaded: LoadedDualEncoder, format: str) -> Writer:
    """The first row that can express the network."""
    refusals: list[DoesNotFit] = []
    for row in FORMATS:
        if row.kind != DUAL_ENCODER or row.exports_to != format or row.writer is None:
            continue
        try:
            return row.writer(loaded)
        except DoesNotFit as refusal:
            refusals.append(refusal)
    closest = min(refusals, key=lambda each: each.distance)
    more = len(closest.differences) - MAX_DIFFERENCES
    why = "; ".join(closest.differences[:MAX_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")
    near = f" (the closest, {closest.closest}, differs)" if closest.closest else ""
    raise ModelError(
        f"{loaded.name or 'this model'}: {format} has no such dual encoder{near}: {why}. The format onnx works for "
        "every dual encoder"
    ) from closest


def _vision_language_writer(loaded: LoadedVisionLanguage, format: str) -> Writer:
    for row in FORMATS:
        if row.kind == VISION_LANGUAGE_MODEL and row.exports_to == format and row.writer is not None:
            try:
                return row.writer(loaded)
            except DoesNotFit as refusal:
                raise ModelError(
                    f"{loaded.name or 'this model'}: transformers' {row.name} is another network: {refusal}. "
                    "Beholder's own format, by save_pretrained, keeps it"
                ) from refusal
    raise ModelError(
        f"{loaded.name}: {format} has no place for a bridge to a language model; the format transformers has, for "
        "BLIP-2's architecture, and save_pretrained keeps any"
    )
