"""Where what OpenVINO compiled is kept: a folder of the cache for each model, put in place as a whole."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from beholder.errors import ModelError
from beholder.runtime.device import processor_name
from beholder.runtime.engine import available, library, save
from beholder.weights.cache import cache_folder


def place_of(
    name: str | Path, of_mini: Callable[[], Path], build: int, packages: Sequence[str] = (), prefix: str = ""
) -> Path | None:
    """Where a compiled model lies, or would lie; None for a name that is neither ``"mini"`` nor a folder.

    It is another place where anything is different that decides what is compiled and how it runs: the model's files,
    this package, OpenVINO, the processor.

    Args:
        name: of the model.
        of_mini: gives the folder of ``"mini"``.
        build: raised when the folder is made in another way.
        packages: others whose version decides, too.
        prefix: of the folder's name.
    """
    folder = of_mini() if name == "mini" else Path(name).expanduser().absolute()
    if not str(name) or not folder.is_dir():
        return None
    try:
        versions = [version(package) for package in ("beholder", "openvino", *packages)]
    except PackageNotFoundError:
        return None
    stats = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = [(path, status.st_size, status.st_mtime_ns) for path, status in stats]
    digest = hashlib.sha256(json.dumps([build, *versions, processor_name(), facts]).encode()).hexdigest()[:16]
    return cache_folder() / "compiled" / f"{prefix}{digest}"


def found_at(folder: Path | None, file: str) -> dict[str, Any] | None:
    """What ``file`` tells of a compiled model, if it is there and OpenVINO to run it."""
    if folder is None or not (folder / file).is_file() or not available():
        return None
    return json.loads((folder / file).read_text("utf-8"))


def place_to_compile(name: str | Path, place: Callable[[str | Path], Path | None]) -> Path:
    """The place of a model that can be compiled.

    Raises:
        ModelError: it can't: it has no folder, or OpenVINO is not installed.
    """
    if not available():
        raise ModelError(f"{name}: compiling a model needs OpenVINO: pip install openvino")
    folder = place(name)
    if folder is None:
        raise ModelError(f"{name}: only mini and a model in a folder can be compiled; save this one into a folder")
    return folder


def source_of(name: str | Path) -> str:
    """What a model is called wherever one stands: ``"mini"``, or the whole path."""
    return str(name) if name == "mini" else str(Path(name).expanduser().absolute())


def write_network(
    module: Any, inputs: Sequence[Any], shapes: Sequence[Sequence[int]], file: Path, *, unused: bool = False
) -> None:
    """Converts a network of torch's and writes it.

    Args:
        module: the network.
        inputs: tensors to trace it with.
        shapes: of its inputs; -1 where a length is free.
        file: an .xml, beside which its weights come to lie.
        unused: whether it may have no use for the last of the inputs.
    """
    import torch

    openvino = library()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that stay the same
        model = openvino.convert_model(module.eval(), example_input=tuple(inputs))
    for port, shape in zip(model.inputs, shapes, strict=not unused):
        port.get_node().set_partial_shape(openvino.PartialShape(list(shape)))
    model.validate_nodes_and_infer_types()
    save(model, file)


def remove_older(folder: Path, file: str, source: str, made_for: str) -> None:
    """Removes what was compiled of a model for the same processor before.

    Args:
        folder: what was compiled now.
        file: tells of each such folder what it is.
        source: of the model (`source_of`).
        made_for: the processor.
    """
    for other in folder.parent.glob(f"*/{file}"):
        held = json.loads(other.read_text("utf-8"))
        same = (held.get("source"), held.get("processor", made_for)) == (source, made_for)
        if other.parent != folder and same:
            shutil.rmtree(other.parent, ignore_errors=True)
