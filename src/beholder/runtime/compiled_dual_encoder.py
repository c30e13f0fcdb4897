"""A dual encoder compiled for the processor by OpenVINO and kept on disk: the same vectors, without importing torch.

    compiled.json            what was compiled, and what the tasks need beside the towers
    image.xml, text.xml      the towers, with their weights in image.bin and text.bin
    tokenizer.json
    calibration.safetensors  where the model has a calibration
    image-fast.json, …       which way was chosen for a tower and a precision (`beholder.runtime.measured`)
    kernels/                 what OpenVINO made of them for this processor

Nothing here imports torch unless a network is compiled: that is what makes a program start in a moment.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import ModelError
from beholder.files import atomic_folder
from beholder.pictures.transform import Preprocessing
from beholder.runtime.compiled_folder import (
    found_at,
    place_of,
    place_to_compile,
    remove_older,
    source_of,
    write_network,
)
from beholder.runtime.device import processor_name
from beholder.runtime.engine import Stage, Stages
from beholder.runtime.measured import Choice, chosen, unit
from beholder.runtime.precision import Precision
from beholder.runtime.samples import sample_pixels, sample_tokens
from beholder.text.tokenizer import Tokenizer
from beholder.weights import mini_parts
from beholder.weights.calibration import Calibration

if TYPE_CHECKING:
    from beholder.models.dual_encoder import TwoTowers
    from beholder.weights.loaded import LoadedDualEncoder

FILE = "compiled.json"
BUILD = 2  # raised when the folder is made in another way
TOLERANCE = 1e-5  # between vectors of the compiled towers and of the network
CHECKED = 3  # pictures, and sentences


@dataclass(frozen=True)
class CompiledDualEncoder:
    """What a compiled folder holds; the network itself is loaded only where somebody asks for it.

    Attributes:
        source: the name that the model was compiled under.
        fingerprint: that of the network (`beholder.weights.native.fingerprint`).
        processor: that it was compiled for.
    """

    folder: Path
    source: str
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    calibration: Calibration | None
    name: str
    licence: str
    embedding: int
    scale: float
    bias: float | None
    fingerprint: str
    processor: str

    @cached_property
    def loaded(self) -> LoadedDualEncoder:
        """What this was compiled from."""
        from beholder.weights.load import load_dual_encoder

        return load_dual_encoder(self.source)

    @property
    def network(self) -> TwoTowers:
        """The network that was compiled."""
        return self.loaded.network


class CompiledTowers:
    """The compiled towers, each read when it is first needed.

    Args:
        compiled: what `compile_dual_encoder` or `find_compiled` gave.
        precision: how exact the vectors have to be. Which way is the fastest is measured the first time.
    """

    batch = 16  # on a CPU, more at once gain nothing and take memory

    def __init__(self, compiled: CompiledDualEncoder, precision: Precision = "exact"):
        self.embedding, self.scale, self.bias = compiled.embedding, compiled.scale, compiled.bias
        self.compiled = compiled
        self.precision: Precision = precision
        self.engine = "OpenVINO on cpu" + ("" if precision == "exact" else f", {precision}")

    def choice(self, tower: str) -> Choice | None:
        """What was measured and chosen for ``"image"`` or ``"text"``; nothing needs choosing where all is exact."""
        if self.precision == "exact":
            return None
        compiled = self.compiled
        if tower == "image":
            samples = [sample_pixels(compiled.preprocessing)]
        else:
            tokens = sample_tokens(compiled.tokenizer)
            samples = [tokens.ids, tokens.mask]
        return chosen(compiled.folder, tower, self.precision, samples)

    @cached_property
    def image(self) -> Stages:  # noqa: D102
        return self._read("image")

    @cached_property
    def text(self) -> Stages:  # noqa: D102
        return self._read("text")

    def embed_image(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) → (B, E)."""
        return self._unit(self.image(pixels))

    def pooled_image(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) → (B, D), by the network itself: it is compiled as a whole, with its head."""
        import torch

        from beholder.runtime.towers import TorchTowers

        return TorchTowers(self.compiled.network, torch.device("cpu")).pooled_image(pixels)

    def embed_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Ids (B, T), mask (B, T) → (B, E)."""
        return self._unit(self.text(ids, mask))

    def _read(self, tower: str) -> Stages:
        choice = self.choice(tower)
        return Stages.read(self.compiled.folder, (Stage(f"{tower}.xml"),) if choice is None else choice.stages)

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        return vectors if self.precision == "exact" else unit(vectors)  # rounded, they are not quite so long


def find_compiled_dual_encoder(name: str | Path) -> CompiledDualEncoder | None:
    """What was compiled of ``"mini"`` or of a folder, if it was and the model has not changed since.

    Args:
        name: other names than ``"mini"`` and folders are never found.
    """
    folder = place(name)
    held = found_at(folder, FILE)
    if folder is None or held is None:
        return None
    return CompiledDualEncoder(
        folder=folder,
        preprocessing=Preprocessing(**held.pop("preprocessing")),
        tokenizer=Tokenizer.load(folder, held.pop("tokenizer")),
        calibration=Calibration.load(folder),
        **held,
    )


def place(name: str | Path) -> Path | None:
    """Where a compiled dual encoder lies, or would lie."""
    return place_of(name, mini_parts.model_folder, BUILD)


def compile_dual_encoder(loaded: LoadedDualEncoder, name: str | Path) -> CompiledDualEncoder:
    """Compile a network that was loaded under a name, check it against the network, and keep it for `find_compiled`.

    Args:
        loaded: on the CPU.
        name: ``"mini"`` or a folder.

    Raises:
        ModelError: the name is neither, OpenVINO is not installed, the network can't be compiled, or the compiled one
            gives other vectors.
    """
    from beholder.runtime.towers import TorchTowers
    from beholder.weights.native import fingerprint

    folder = place_to_compile(name, place)
    import torch

    towers = TorchTowers(loaded.network, torch.device("cpu"))
    held = {
        "source": source_of(name),
        "name": loaded.name,
        "licence": loaded.licence,
        "preprocessing": asdict(loaded.preprocessing),
        "tokenizer": asdict(loaded.tokenizer.settings),
        "embedding": towers.embedding,
        "scale": towers.scale,
        "bias": towers.bias,
        "fingerprint": fingerprint(loaded),
        "processor": processor_name(),
    }
    with atomic_folder(folder, replace=False) as whole:
        (whole / FILE).write_text(json.dumps(held), "utf-8")
        loaded.tokenizer.save(whole)
        if loaded.calibration is not None:
            loaded.calibration.save(whole)
        try:
            _write_towers(loaded, whole)
        except Exception as error:  # OpenVINO's converter raises what it likes
            raise ModelError(f"{name}: OpenVINO can't compile this network ({error})") from error
    compiled = find_compiled_dual_encoder(name)
    if compiled is None:
        raise ModelError(f"{name}: its files changed while it was compiled; compile it again")
    apart = _apart(towers, CompiledTowers(compiled), loaded)
    if not apart <= TOLERANCE:
        shutil.rmtree(folder)
        raise ModelError(f"{name}: the compiled network's vectors are off by {apart:.1e}; it is not used")
    remove_older(folder, FILE, compiled.source, compiled.processor)
    return compiled


def _write_towers(loaded: LoadedDualEncoder, folder: Path) -> None:
    import torch
    from torch import Tensor, nn

    class Image(nn.Module):
        def __init__(self, network: TwoTowers):
            super().__init__()
            self.network = network

        def forward(self, pixels: Tensor) -> Tensor:
            return self.network.embed_image(pixels)

    class Text(Image):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            return self.network.embed_text(ids, mask)

    pixels, tokens = _examples(loaded)
    inputs = {"image": [pixels], "text": [tokens.ids, tokens.mask]}
    for tower, module in (("image", Image(loaded.network)), ("text", Text(loaded.network))):
        arrays = inputs[tower]
        shapes = [[-1] * array.ndim if tower == "text" else [-1, *array.shape[1:]] for array in arrays]
        tensors = [torch.from_numpy(array) for array in arrays]
        write_network(module, tensors, shapes, folder / f"{tower}.xml", unused=True)  # a causal tower needs no mask


def _examples(loaded: LoadedDualEncoder) -> tuple[np.ndarray, Any]:
    """Pictures (B, 3, H, W), and as many sentences."""
    return sample_pixels(loaded.preprocessing, CHECKED), sample_tokens(loaded.tokenizer, CHECKED)


def _apart(one: Any, other: Any, loaded: LoadedDualEncoder) -> float:
    """The largest difference between two towers' vectors, over batches of several sizes."""
    pixels, tokens = _examples(loaded)
    gaps = []
    for count in (1, len(pixels)):
        gaps.append(np.abs(one.embed_image(pixels[:count]) - other.embed_image(pixels[:count])).max())
        ids, mask = tokens.ids[-count:], tokens.mask[-count:]
        gaps.append(np.abs(one.embed_text(ids, mask) - other.embed_text(ids, mask)).max())
    return float(np.max(gaps))
