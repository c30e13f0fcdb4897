"""``beholder models``: which models are on this machine, and which are recommended."""

from __future__ import annotations

from typing import Annotated

import typer

from beholder.cli.options import Json


def command(
    known: Annotated[bool, typer.Option("--known", help="List the recommended models instead.")] = False,
    json: Json = False,
) -> None:
    """List the models on this machine, or with --known the recommended ones.

    The default model is in the list even if it is not there yet.

    \b
    beholder models
    beholder models --known
    """
    if known:
        _list_known(json)
    else:
        _list_installed(json)


def _list_installed(json: bool) -> None:
    from beholder.cli.output import print_json
    from beholder.weights.installed import installed_models

    for model in installed_models():
        if json:
            path = str(model.path) if model.path else None
            print_json({"name": model.name, "kind": model.kind, "path": path, "bytes": model.size})
        elif model.path is None:
            print(f"{model.name}, {model.kind}: not fetched yet (beholder pull {model.name})")
        else:
            print(f"{model.name}, {model.kind}: {model.path} ({model.size / 1e6:.0f} MB)")


def _list_known(json: bool) -> None:
    from dataclasses import asdict

    from beholder.cli.output import print_json
    from beholder.weights.known_models import DATE, KNOWN_MODELS

    if json:
        for model in KNOWN_MODELS:
            print_json({"name": model.names[0], **asdict(model), "gigabytes": round(model.gigabytes, 1)})
        return
    print(f"Recommended models, as of {DATE}; beholder pull NAME downloads one.")
    for model in KNOWN_MODELS:
        print(f"\n{', '.join(model.names)}: {model.repository}")
        print(f"  {model.kind} for {model.purpose}; {model.budget}")
        print(f"  {model.parameters} million parameters, {model.gigabytes:.1f} GB; licence {model.licence}")
        print(f"  {model.figure} ({model.source})")
