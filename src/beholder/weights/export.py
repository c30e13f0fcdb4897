"""What was trained here, in the layouts of others: transformers, open_clip, ONNX.

A layout's module says how our settings are written in its config, and how its config is read. A network can be kept in
a layout where the config, read again, gives the same settings; the table of names that brings tensors in takes them
out, too.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import save_file

from beholder.errors import InvalidSetting, ModelError
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer_files import FILE, TOKENIZER_FAMILIES, TokenizerKind, write_tokenizer
from beholder.weights import blip2, chinese_clip, clip, open_clip, siglip
from beholder.weights import preprocessing as foreign_preprocessing
from beholder.weights.card import model_card
from beholder.weights.loaded import LoadedDualEncoder, LoadedVisionLanguage
from beholder.weights.ours import replace_folder
from beholder.weights.table import Row, to_foreign

Format = Literal["transformers", "open_clip", "onnx"]
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
SHOWN = 4  # differences in a message
OTHER_KIND = "altogether:"
# Everything that any of the formats writes; a folder with other files in it is left alone.
FILES = {CONFIG, WEIGHTS, CARD, FILE, "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"} | {
    *("generation_config.json", open_clip.CONFIG, OPEN_CLIP_WEIGHTS, "image.onnx", "text.onnx", "export.json"),
}


class ExportWarning(UserWarning):
    """Something is kept, and is not quite the same elsewhere."""


@dataclass(frozen=True)
class Layout:
    """One of transformers' dual encoders."""

    name: str
    config: Callable[[TwoTowersSettings], dict[str, Any]]
    settings: Callable[[Mapping[str, Any]], TwoTowersSettings]
    rows: tuple[Row, ...]
    processor: str
    tokenizer: TokenizerKind


LAYOUTS = (
    Layout("CLIP", clip.config, clip.settings, clip.ROWS, "CLIP", "clip"),
    Layout("SigLIP", siglip.config, siglip.settings, siglip.ROWS, "Siglip", "siglip"),
    Layout("Chinese-CLIP", chinese_clip.config, chinese_clip.settings, chinese_clip.ROWS, "ChineseCLIP", "bert"),
)


def export(loaded: LoadedDualEncoder | LoadedVisionLanguage, format: Format, folder: Path) -> None:
    """Write a model into a folder that other software opens.

    ``transformers``: ``CLIPModel``, ``SiglipModel``, ``ChineseCLIPModel``, or, for a vision-language model,
    ``Blip2ForConditionalGeneration`` or ``Blip2ForImageTextRetrieval``. ``open_clip``: its config with safetensors.
    ``onnx``: both towers as graphs, whatever they are.

    Args:
        loaded: the model.
        format: the layout.
        folder: a new folder, or one that this function wrote before, which is replaced as a whole.

    Raises:
        ModelError: the layout has no such network; the message says what differs and what works.
        InvalidSetting: the folder is there and holds something else, or there is no such format.
        MissingExtra: the format needs an optional part.

    Warns:
        ExportWarning: pictures or sentences will be prepared a little differently there.
    """
    if format not in get_args(Format):
        raise InvalidSetting(f"format {format!r} is none of {', '.join(get_args(Format))}")
    write: Callable[[Path], None]
    if isinstance(loaded, LoadedVisionLanguage):
        if format != "transformers":
            raise ModelError(
                f"{loaded.name}: {format} has no place for a bridge to a language model; the format transformers has, "
                "for BLIP-2's architecture, and save_pretrained keeps any"
            )
        write = _writer_of_bridge(loaded)
    elif format == "onnx":
        from beholder.weights.onnx import write_onnx

        write = lambda whole: write_onnx(loaded, whole)  # noqa: E731
    elif format == "open_clip":
        write = _writer_of_open_clip(loaded)
    else:
        write = _writer_of_transformers(loaded)
    replace_folder(folder, FILES, write)


def fitting_layout(loaded: LoadedDualEncoder) -> tuple[Layout, dict[str, Any]]:
    """The layout of transformers that holds a network, and its config.

    Raises:
        ModelError: none does; the message says what differs from the closest.
    """
    network = loaded.network.settings
    refused = []
    for layout in LAYOUTS:
        try:
            config = layout.config(network)
            different = differences(network, layout.settings(config))
        except ModelError as error:
            raise _refusal(loaded, "transformers", "", [str(error)]) from error
        if not different:
            return layout, config
        refused.append((different[0].startswith(OTHER_KIND), len(different), layout.name, different))
    _, _, name, different = min(refused)
    raise _refusal(loaded, "transformers", name, different)


def differences(ours: TwoTowersSettings, theirs: TwoTowersSettings) -> list[str]:
    """The settings by which two networks would give different vectors, in words."""
    flat = _flat(ours.to_dict()), _flat(theirs.to_dict())
    for tower in ("image", "text"):
        kinds = [settings.get(f"{tower}.kind") for settings in flat]
        if kinds[0] != kinds[1]:
            return [f"{OTHER_KIND} its {tower} tower is of the kind {kinds[0]} and not {kinds[1]}"]
    for settings in flat:
        if settings.get("image.pooling") == "class":  # a norm of all tokens and a norm of the one taken are the same
            settings["image.final_norm"] = "pooled"
        if settings.get("text.pooling") != "end":
            settings.pop("text.end_id", None)
        settings.pop("image.antialias", None)  # of pictures of another size
    names = sorted(flat[0].keys() | flat[1].keys())
    return [
        f"{name} is {flat[0].get(name)} and not {flat[1].get(name)}"
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result


def _refusal(loaded: LoadedDualEncoder, format: str, closest: str, different: list[str]) -> ModelError:
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    near = f" (the closest, {closest}, differs)" if closest else ""
    why = "; ".join(different[:SHOWN]) + more
    return ModelError(
        f"{loaded.name or 'this model'}: {format} has no such dual encoder{near}: {why}. The format onnx works for "
        "every dual encoder"
    )


def _writer_of_transformers(loaded: LoadedDualEncoder) -> Callable[[Path], None]:
    layout, config = fitting_layout(loaded)
    try:
        pixels = foreign_preprocessing.to_huggingface(loaded.preprocessing, layout.processor)
    except ModelError as error:
        raise _refusal(loaded, "transformers", "", [str(error)]) from error
    marks = loaded.tokenizer.settings
    config["text_config"].setdefault("eos_token_id", marks.end_id)
    if marks.start_id is not None:
        config["text_config"]["bos_token_id"] = marks.start_id
    tensors = to_foreign(loaded.network.state_dict(), layout.rows)

    def write(folder: Path) -> None:
        _write_json(folder / CONFIG, {**config, "dtype": "float32"})
        _write_json(folder / "preprocessor_config.json", pixels)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        lost = write_tokenizer(loaded.tokenizer, folder, TOKENIZER_FAMILIES[layout.tokenizer])
        if lost:
            _warn(loaded.name, f"texts are not {lost} there, as they are here before they are cut into tokens")
        _compare(loaded, foreign_preprocessing.from_huggingface(folder, layout.processor))
        (folder / CARD).write_text(_card(loaded, config["architectures"][0]), "utf-8")

    return write


def _writer_of_open_clip(loaded: LoadedDualEncoder) -> Callable[[Path], None]:
    network = loaded.network.settings
    try:
        model = open_clip.config(network)
        different = differences(network, open_clip.settings(model))
    except ModelError as error:
        different = [str(error)]
    if different:
        raise _refusal(loaded, "open_clip", "", different)
    bias = loaded.network.logit_bias
    if bias is not None:
        model["init_logit_bias"] = float(bias.detach())
    own = open_clip.is_clip_vocabulary(loaded.tokenizer)
    if not own:  # open_clip looks for it beside this config, whatever the name is
        model["text_cfg"]["hf_tokenizer_name"] = loaded.name or "beholder"
    tensors = to_foreign(loaded.network.state_dict(), open_clip.rows((), network.text_head.bias))
    pixels = foreign_preprocessing.to_open_clip(loaded.preprocessing)

    def write(folder: Path) -> None:
        _write_json(folder / open_clip.CONFIG, {"model_cfg": model, "preprocess_cfg": pixels})
        save_file(tensors, folder / OPEN_CLIP_WEIGHTS, metadata={"format": "pt"})
        lost = write_tokenizer(loaded.tokenizer, folder, TOKENIZER_FAMILIES["open_clip"])
        if lost and not own:
            _warn(loaded.name, f"texts are not {lost} there, as they are here before they are cut into tokens")
        _compare(loaded, foreign_preprocessing.from_open_clip(pixels, network.image))  # type: ignore[arg-type]
        (folder / CARD).write_text(_card(loaded, "open_clip"), "utf-8")

    return write


def _writer_of_bridge(loaded: LoadedVisionLanguage) -> Callable[[Path], None]:
    try:
        made = blip2.to_blip2(loaded)
        pixels = foreign_preprocessing.to_huggingface(loaded.preprocessing, "Blip")
    except ModelError as error:
        raise ModelError(
            f"{loaded.name or 'this model'}: transformers' BLIP-2 is another network: {error}. Beholder's own format, "
            "by save_pretrained, keeps it"
        ) from error
    if made.left_out:
        _warn(loaded.name, f"{made.architecture} has no place for {', '.join(made.left_out)}; left out")

    def write(folder: Path) -> None:
        _write_json(folder / CONFIG, made.config)
        _write_json(folder / "preprocessor_config.json", pixels)
        save_file(made.tensors, folder / WEIGHTS, metadata={"format": "pt"})
        blip2.write_language_tokenizer(loaded, made.config, folder)
        (folder / CARD).write_text(
            f"# {loaded.name or 'A vision-language model'}\n\n{_use(made.architecture)}", "utf-8"
        )

    return write


def _compare(loaded: LoadedDualEncoder, there: Preprocessing) -> None:
    here = asdict(loaded.preprocessing)
    different = [f"{name} {here[name]} becomes {value}" for name, value in asdict(there).items() if here[name] != value]
    if different:
        _warn(loaded.name, f"pictures are prepared a little differently there: {', '.join(different)}")


def _warn(name: str, sentence: str) -> None:
    warnings.warn(f"{name or 'this model'}: {sentence}", ExportWarning, stacklevel=4)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _card(loaded: LoadedDualEncoder, architecture: str) -> str:
    card = model_card(loaded)
    return card[: card.index("```python")] + _use(architecture)


def _use(architecture: str) -> str:
    if architecture == "open_clip":
        lines = "import open_clip\n\nmodel, _, preprocess = open_clip.create_model_and_transforms"
        lines += '("local-dir:this folder")\ntokenizer = open_clip.get_tokenizer("local-dir:this folder")'
    else:
        lines = f"from transformers import AutoImageProcessor, AutoTokenizer, {architecture}\n\n"
        lines += f'model = {architecture}.from_pretrained("this folder")\n'
        lines += 'processor = AutoImageProcessor.from_pretrained("this folder")\n'
        lines += 'tokenizer = AutoTokenizer.from_pretrained("this folder")'
    return f"```python\n{lines}\n```\n"
