"""``beholder doctor``: compare a checkpoint with its reference implementation."""

from __future__ import annotations

from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, Json


def command(
    name: Annotated[str, typer.Argument(help="A name, a folder or a hub id.")],
    json: Json = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Check a model against its reference implementation.

    Files, strict loading, pixels, tokens, batches, vectors.

    \b
    beholder doctor mini
    beholder doctor ./my-checkpoint
    """
    from beholder.cli.output import print_json
    from beholder.evaluation.doctor import diagnose

    failed = False
    for check in diagnose(name, allow_pickle=allow_pickle):
        failed = failed or check.ok is False
        if json:
            print_json({"check": check.check, "ok": check.ok, "detail": check.detail})
        else:
            mark = {True: "ok", False: "FAIL", None: "skip"}[check.ok]
            print(f"{mark:4}  {check.check}: {check.detail}")
    raise typer.Exit(1 if failed else 0)
