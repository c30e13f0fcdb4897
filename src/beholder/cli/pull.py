"""``beholder pull``: download a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli.options import Json, Precision, PrecisionName

if TYPE_CHECKING:
    from beholder.runtime.precision import Precision as Checked


def command(
    name: Annotated[str, typer.Argument(help="mini, a short name such as clip (models --known), or a hub id.")],
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile it for this processor, so that it starts and runs faster.")
    ] = False,
    precision: Precision = PrecisionName.exact,
    json: Json = False,
) -> None:
    """Download a model now, so that it works without a network later.

    Its size and licence are printed first. What was downloaded before a break stays, and hashes are checked.

    With --precision, what is the fastest within its bound is measured now rather than on first use.

    \b
    beholder pull mini
    beholder pull clip
    beholder pull mini --compile
    beholder pull ./my-model --compile --precision fastest
    """
    from beholder.cli.output import print_json
    from beholder.errors import InvalidSetting, ModelError
    from beholder.runtime.precision import check_precision
    from beholder.weights.formats import DUAL_ENCODER, VISION_LANGUAGE_MODEL
    from beholder.weights.installed import kind_of
    from beholder.weights.sources import find_any_model, plan_download

    if precision != PrecisionName.exact and not compile:
        raise InvalidSetting(f"--precision {precision}: is measured on what is compiled; add --compile")
    if (download := plan_download(name)) is not None and download.size:
        licence = download.licence or "not stated on the hub"
        print(f"{download.repository}: {download.size / 1e6:,.1f} MB, licence: {licence}", file=sys.stderr)
    folders = [find_any_model(name)]
    if name == "mini":
        from beholder.weights import mini_bridge, mini_generator

        folders += [mini_bridge.folder(), mini_generator.folder()]
    measured: list[str] = []
    if compile:
        kind = kind_of(folders[0]) if name != "mini" else None
        if kind is None and name != "mini":
            raise ModelError(f"{name}: neither a dual encoder nor a vision-language model that is known")
        if kind in (None, DUAL_ENCODER):
            folders.append(_compile_encoder(name, check_precision(precision), measured))
        if kind in (None, VISION_LANGUAGE_MODEL):
            folders.append(_compile_vision_language_model(name, check_precision(precision)))
    for folder in folders:
        if json:
            print_json({"name": name, "path": str(folder)})
        else:
            print(f"{name}: {folder}")
    if not json:
        for line in measured:
            print(line)


def _compile_encoder(name: str, precision: Checked, measured: list[str]) -> Path:
    from beholder.runtime.compiled_dual_encoder import MULTILINGUAL, CompiledTowers
    from beholder.tasks.dual_encoder import DualEncoder

    towers = DualEncoder.compile(name, precision=precision).towers
    if not isinstance(towers, CompiledTowers):
        raise TypeError(f"{name}: was compiled and runs on {towers.engine}")
    second = [] if towers.compiled.multilingual is None else [MULTILINGUAL]
    for tower in ("image", "text", *second):
        if (choice := towers.choice(tower)) is not None:
            faster = f"{choice.speedup:.2f} times as fast as exact, cosine {choice.cosine:.5f}"
            measured.append(f"{name}: {tower} tower {faster}")
    return towers.compiled.folder


def _compile_vision_language_model(name: str, precision: Checked) -> Path:
    from beholder.runtime.compiled_smolvlm import CompiledSmolVLM
    from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
    from beholder.tasks.vision_language import VisionLanguageModel

    compiled = VisionLanguageModel.compile(name, precision=precision).loaded
    if not isinstance(compiled, CompiledVisionLanguageModel | CompiledSmolVLM):
        raise TypeError(f"{name}: was not compiled")
    return compiled.folder
