"""``beholder export``: a model in the layout of other software."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, Json


class Format(StrEnum):
    """What the model is to be opened with."""

    TRANSFORMERS = "transformers"
    OPEN_CLIP = "open_clip"
    ONNX = "onnx"


def command(
    model: Annotated[str, typer.Argument(help="A name, a folder or a hub id.")],
    format: Annotated[Format, typer.Option("--format", "-f", help="What is to open it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or one that an export wrote before.")],
    json: Json = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Write a model for transformers, open_clip or ONNX Runtime.

    \b
    beholder export ./my-clip --format transformers --out my-clip-hf
    beholder export mini --format onnx --out mini-onnx
    """
    from beholder.cli.output import check_output_folder, print_json, warnings_on_one_line
    from beholder.weights.export import export
    from beholder.weights.formats import VISION_LANGUAGE_MODEL
    from beholder.weights.installed import kind_of
    from beholder.weights.load import load_dual_encoder, load_vision_language
    from beholder.weights.sources import find_model

    check_output_folder("--out", out)
    with warnings_on_one_line():
        writes = kind_of(find_model(model, allow_pickle=allow_pickle)) == VISION_LANGUAGE_MODEL
        load = load_vision_language if writes else load_dual_encoder
        export(load(model, allow_pickle=allow_pickle), format.value, out)
    if json:
        print_json({"model": model, "format": format.value, "path": str(out)})
    else:
        print(f"{out}: {model} for {format.value}")
