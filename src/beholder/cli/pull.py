"""``beholder pull``: bring a model to this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from beholder.cli.options import Json


def command(
    name: Annotated[str, typer.Argument(help="mini, or a hub id such as openai/clip-vit-base-patch32.")],
    json: Json = False,
) -> None:
    """Fetch a model now, so that it works without a network later.

    \b
    beholder pull mini
    """
    from beholder.cli.pictures import print_json
    from beholder.weights.sources import find

    folders = [find(name)]
    if name == "mini":
        from beholder.weights import mini_bridge

        folders.append(mini_bridge.folder())
    for folder in folders:
        if json:
            print_json({"name": name, "path": str(folder)})
        else:
            print(f"{name}: {folder}")
