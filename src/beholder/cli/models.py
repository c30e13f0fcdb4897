"""``beholder models``: which models are on this machine."""

from __future__ import annotations

from beholder.cli.options import Json


def command(json: Json = False) -> None:
    """List the models on this machine.

    The default one is in the list even if it is not there yet.
    """
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
