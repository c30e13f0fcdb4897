"""Dual encoders of transformers: the layout of a checkpoint, by which it is loaded and exported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.pictures.preprocess import AnyPreprocessing
from beholder.text.tokenizer_files import TOKENIZER_FAMILIES, TokenizerKind, write_tokenizer
from beholder.weights import huggingface, preprocessing
from beholder.weights.exporting import (
    CARD,
    WEIGHTS,
    DoesNotFit,
    Writer,
    differences,
    exported_card,
    fixed_preprocessing,
    transformers_example,
    warn_of_cleaning,
    warn_of_preprocessing,
    write_json,
)
from beholder.weights.foreign_dual_encoder import ForeignDualEncoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.table import Row, build_empty, load_foreign, to_foreign
from beholder.weights.tensors import read_tensors


@dataclass(frozen=True)
class TransformersLayout:
    """How one dual encoder of transformers is laid out.

    Attributes:
        name: what people call it.
        model_type: of its ``config.json``.
        settings: reads a config.
        config: writes one: ``settings`` of it tells how much of a network the layout can express. None where the
            layout can't be exported to.
        rows: the table of names.
        ignored: patterns of its tensors that are not needed.
        processor: the name of its image processor, without "ImageProcessor".
        tokenizer: the family of its tokenizer.
        prepare: changes its tensors before they are named; an export does not undo it.
        preprocessing: reads the config of the image processor, given the folder and ``processor``.
    """

    name: str
    model_type: str
    settings: Callable[[Mapping[str, Any]], TwoTowersSettings]
    config: Callable[[TwoTowersSettings], dict[str, Any]] | None
    rows: tuple[Row, ...]
    ignored: tuple[str, ...]
    processor: str
    tokenizer: TokenizerKind
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors
    preprocessing: Callable[[Path, str], AnyPreprocessing] = preprocessing.from_huggingface


def read_network(layout: TransformersLayout, folder: Path, allow_pickle: bool = True) -> ForeignDualEncoder:
    """Load the network of a folder, without its tokenizer.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    pixels = layout.preprocessing(folder, layout.processor)
    settings = layout.settings(huggingface.read_json(folder / huggingface.CONFIG))
    tensors = layout.prepare(read_tensors(folder, huggingface.STEMS, allow_pickle))
    network = load_foreign(build_empty(TwoTowers, settings), tensors, layout.rows, layout.ignored)
    return ForeignDualEncoder(network, pixels, layout.tokenizer)


def fitting_config(layout: TransformersLayout, network: TwoTowersSettings) -> dict[str, Any]:
    """Return the config of a network in this layout.

    Raises:
        DoesNotFit: the layout can't express it.
    """
    if layout.config is None:
        raise DoesNotFit(["it can't be exported to"], layout.name)
    try:
        config = layout.config(network)
        different = differences(network, layout.settings(config))
    except ModelError as error:
        raise DoesNotFit([str(error)]) from error
    if different:
        raise DoesNotFit(different, layout.name)
    return config


def writer(layout: TransformersLayout, loaded: LoadedDualEncoder) -> Writer:
    """Prepare the export of a dual encoder to this layout.

    Raises:
        DoesNotFit: the layout can't express the network or its preprocessing.
        ModelError: the pictures of the model keep their own shape.
    """
    prepared = fixed_preprocessing(loaded)
    config = fitting_config(layout, loaded.network.settings)
    try:
        pixels = preprocessing.to_huggingface(prepared, layout.processor)
    except ModelError as error:
        raise DoesNotFit([str(error)]) from error
    marks = loaded.tokenizer.settings
    config["text_config"].setdefault("eos_token_id", marks.end_id)
    if marks.start_id is not None:
        config["text_config"]["bos_token_id"] = marks.start_id
    tensors = to_foreign(loaded.network.state_dict(), layout.rows)

    def write(folder: Path) -> None:
        write_json(folder / huggingface.CONFIG, {**config, "dtype": "float32"})
        write_json(folder / preprocessing.PREPROCESSOR_CONFIG, pixels)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        warn_of_cleaning(loaded, write_tokenizer(loaded.tokenizer, folder, TOKENIZER_FAMILIES[layout.tokenizer]))
        warn_of_preprocessing(loaded, preprocessing.from_huggingface(folder, layout.processor))
        example = transformers_example(config["architectures"][0])
        (folder / CARD).write_text(exported_card(loaded, example), "utf-8")

    return write
