"""Compiled models on disk: find, compile and verify, the same for every kind of model.

Each has a folder in the cache, named by a hash of everything that determines what is compiled and how it runs: the
model's files, the versions of this package and of OpenVINO, the processor.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

from beholder.errors import ModelError
from beholder.files import atomic_folder
from beholder.runtime.device import processor_name
from beholder.runtime.engine import available, openvino, save_network
from beholder.weights.cache import cache_folder

Loaded = TypeVar("Loaded")
Compiled = TypeVar("Compiled")


@dataclass(frozen=True)
class CompiledFormat(Generic[Loaded, Compiled]):
    """A kind of compiled model: how one is made of the networks in torch, on the CPU in float32, and read again.

    Attributes:
        file: its metadata, JSON, in the model's folder.
        build: increased when the contents of the folder change.
        mini_folder: returns the folder of ``"mini"``.
        read: reads a model from its folder and metadata.
        metadata: returns JSON values, to which the model's source and the processor are added.
        write: writes tokenizers and the like into a folder.
        convert: converts the networks and writes them.
        verify: raises a ModelError if a compiled model's outputs differ from the original's.
        packages: further packages whose version matters.
        prefix: of the folder's name.
        older_files: what the metadata was called in earlier builds.
    """

    file: str
    build: int
    mini_folder: Callable[[], Path]
    read: Callable[[Path, dict[str, Any]], Compiled]
    metadata: Callable[[Loaded], dict[str, Any]]
    write: Callable[[Loaded, Path], None]
    convert: Callable[[Loaded, Path], None]
    verify: Callable[[Compiled, Loaded], None]
    packages: tuple[str, ...] = ()
    prefix: str = ""
    older_files: tuple[str, ...] = ()

    def folder(self, name: str | Path) -> Path | None:
        """Return the folder of a compiled model, which may not exist; None unless it is ``"mini"`` or a folder."""
        model = self.mini_folder() if name == "mini" else Path(name).expanduser().absolute()
        if not str(name) or not model.is_dir():
            return None
        try:
            versions = [version(package) for package in ("beholder", "openvino", *self.packages)]
        except PackageNotFoundError:
            return None
        stats = [(str(path), path.stat()) for path in sorted(model.rglob("*")) if path.is_file()]
        files = [(path, status.st_size, status.st_mtime_ns) for path, status in stats]
        facts = json.dumps([self.build, *versions, processor_name(), files])
        return cache_folder() / "compiled" / f"{self.prefix}{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    def find(self, name: str | Path) -> Compiled | None:
        """Return the compiled form of ``"mini"`` or of a folder; other names are never found.

        None unless there is one, the model has not changed since, and OpenVINO is installed.
        """
        folder = self.folder(name)
        if folder is None or not (folder / self.file).is_file() or not available():
            return None
        return self.read(folder, json.loads((folder / self.file).read_text("utf-8")))

    def compile(self, loaded: Loaded, name: str | Path) -> Compiled:
        """Compile a model, verify it against the original, and keep it for `find`.

        Args:
            loaded: the model, on the CPU in float32.
            name: ``"mini"`` or a folder, from which it was loaded.

        Raises:
            ModelError: the name is neither, OpenVINO is not installed, or a network can't be compiled or gives other
                outputs.
        """
        if not available():
            raise ModelError(f"{name}: compiling a model needs OpenVINO: pip install openvino")
        folder = self.folder(name)
        if folder is None:
            raise ModelError(f"{name}: only mini and a model in a folder can be compiled; save this one into a folder")
        source = str(name) if name == "mini" else str(Path(name).expanduser().absolute())
        facts = {**self.metadata(loaded), "source": source, "processor": processor_name()}
        with atomic_folder(folder, replace=True) as scratch:
            (scratch / self.file).write_text(json.dumps(facts), "utf-8")
            self.write(loaded, scratch)
            try:
                self.convert(loaded, scratch)
            except Exception as error:  # OpenVINO's converter raises errors of many types
                raise ModelError(f"{name}: OpenVINO can't compile this model ({error})") from error
        compiled = self.find(name)
        if compiled is None:
            raise ModelError(f"{name}: its files changed during compilation; compile it again")
        try:
            self.verify(compiled, loaded)
        except ModelError as error:
            shutil.rmtree(folder)
            raise ModelError(f"{name}: {error}; it is not used") from None
        self._remove_older(folder, source)
        return compiled

    def _remove_older(self, folder: Path, source: str) -> None:
        """Remove earlier compilations of the same model for the same processor."""
        for file in (self.file, *self.older_files):
            for other in folder.parent.glob(f"*/{file}"):
                facts = json.loads(other.read_text("utf-8"))
                same = (facts.get("source"), facts.get("processor")) == (source, processor_name())
                if other.parent != folder and same:
                    shutil.rmtree(other.parent, ignore_errors=True)


def convert(
    module: Any, inputs: Sequence[Any], shapes: Sequence[Sequence[int]], file: Path, *, unused: bool = False
) -> None:
    """Convert a torch module to OpenVINO and write it.

    Args:
        module: the network.
        inputs: example tensors for tracing.
        shapes: of the inputs; -1 for a dimension of any size.
        file: an .xml; its weights are written beside it.
        unused: whether the module may ignore the last of the inputs.
    """
    import torch

    ov = openvino()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer warns of shapes that it takes as constant
        model = ov.convert_model(module.eval(), example_input=tuple(inputs))
    for port, shape in zip(model.inputs, shapes, strict=not unused):
        port.get_node().set_partial_shape(ov.PartialShape(list(shape)))
    model.validate_nodes_and_infer_types()
    save_network(model, file)
