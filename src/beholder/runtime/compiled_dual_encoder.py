"""A dual encoder compiled for the processor by OpenVINO: the same embeddings, without importing torch.

    compiled.json            metadata, and the settings that the tasks need beside the towers
    image.xml, text.xml      the towers, with their weights in image.bin and text.bin
    tokenizer.json
    calibration.safetensors  if the model has a calibration
    multilingual.xml, …      the second text tower, its tokenizer and calibration, if the model has one
    image-fast.json, …       the configuration chosen for a tower and a precision (`beholder.runtime.autotune`)
    kernels/                 OpenVINO's cache

Only compiling a network imports torch, so that a program starts quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import ModelError
from beholder.pictures.preprocess import AnyPreprocessing, read_preprocessing
from beholder.runtime import quantization, split_network
from beholder.runtime.autotune import (
    Autotuner,
    Candidate,
    Choice,
    Workload,
    remember,
    remembered,
    unit,
)
from beholder.runtime.compiled_model import CompiledFormat, convert
from beholder.runtime.engine import NetworkConfig, NetworkSequence, openvino, save_network
from beholder.runtime.precision import Precision
from beholder.runtime.samples import sample_pixels, sample_tokens
from beholder.text import tokenizer
from beholder.text.tokenizer import Tokenizer
from beholder.weights import calibration, mini_parts
from beholder.weights.calibration import Calibration

if TYPE_CHECKING:
    from beholder.models.dual_encoder import TwoTowers
    from beholder.models.text_encoder import TextEncoder
    from beholder.runtime.towers import TorchTowers
    from beholder.weights.loaded import LoadedDualEncoder

TOLERANCE = 1e-5  # between vectors of the compiled towers and of the network
VERIFIED = 3  # images, and sentences
MULTILINGUAL = "multilingual"


@dataclass(frozen=True)
class CompiledTextEncoder:
    """What a second text tower needs beside its network, read on first use: its vocabulary takes half a second."""

    folder: Path
    settings: dict[str, Any]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return Tokenizer.load(self.folder, self.settings, tokenizer.MULTILINGUAL_FILE)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration of its texts."""
        return Calibration.load(self.folder, calibration.MULTILINGUAL_FILE)


@dataclass(frozen=True)
class CompiledDualEncoder:
    """The contents of a compiled folder; the network itself is loaded only on demand.

    Attributes:
        source: name or path that the model was compiled from.
        fingerprint: of the network, as `DualEncoder.fingerprint`.
        processor: that it was compiled for.
        multilingual: the second text tower, if the model has one.
    """

    folder: Path
    source: str
    preprocessing: AnyPreprocessing
    tokenizer: Tokenizer
    calibration: Calibration | None
    name: str
    licence: str
    embedding: int
    scale: float
    bias: float | None
    fingerprint: str
    processor: str
    multilingual: CompiledTextEncoder | None = None

    @cached_property
    def loaded(self) -> LoadedDualEncoder:
        """The model that this was compiled from."""
        from beholder.weights.load import load_dual_encoder

        return load_dual_encoder(self.source)

    @property
    def network(self) -> TwoTowers:
        """The network that this was compiled from."""
        return self.loaded.network


class CompiledTowers:
    """The compiled towers, each loaded on first use. Threads may share them.

    Args:
        compiled: from `COMPILED_DUAL_ENCODER`.
        precision: how close the embeddings must be to those of the network in float32. The fastest configuration is
            measured on first use, and remembered.
    """

    batch = 16  # on a CPU, larger batches gain nothing and take memory

    def __init__(self, compiled: CompiledDualEncoder, precision: Precision = "exact"):
        self.embedding, self.scale, self.bias = compiled.embedding, compiled.scale, compiled.bias
        self.compiled = compiled
        self.precision: Precision = precision
        self.engine = "OpenVINO on cpu" + ("" if precision == "exact" else f", {precision}")
        self._networks: dict[tuple[str, Precision], NetworkSequence] = {}
        self._loading = RLock()  # one thread loads, the others wait

    def choice(self, tower: str) -> Choice | None:
        """Return the configuration chosen for a tower; None for precision ``"exact"``.

        Args:
            tower: ``"image"``, ``"text"`` or ``"multilingual"``.
        """
        if self.precision == "exact":
            return None
        compiled = self.compiled
        if tower == "image":
            samples = [sample_pixels(compiled.preprocessing)]
        else:
            second = compiled.multilingual if tower == MULTILINGUAL else None
            tokens = sample_tokens(compiled.tokenizer if second is None else second.tokenizer)
            samples = [tokens.ids, tokens.mask]
        return choose(compiled.folder, tower, self.precision, samples)

    def embed_image(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) → (B, E)."""
        return self._embed("image", pixels)

    def pooled_image(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) → (B, D), in float32 with every precision: the bounds concern the embeddings."""
        return self._network("image", "exact")(pixels)[1]

    def embed_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Ids (B, T), mask (B, T) → (B, E)."""
        return self._embed("text", ids, mask)

    def embed_multilingual_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Ids (B, T), mask (B, T) → (B, E), by the second text tower."""
        return self._embed(MULTILINGUAL, ids, mask)

    def _embed(self, tower: str, *inputs: np.ndarray) -> np.ndarray:
        vectors = self._network(tower, self.precision)(*inputs)[0]
        if self.precision == "exact":
            return vectors
        if not np.isfinite(vectors).all():  # in bfloat16, an unusual input may overflow
            return self._network(tower, "exact")(*inputs)[0]
        return unit(vectors)  # rounding changes their length

    def _network(self, tower: str, precision: Precision) -> NetworkSequence:
        with self._loading:
            if (tower, precision) not in self._networks:
                choice = None if precision == "exact" else self.choice(tower)
                configs = [NetworkConfig(f"{tower}.xml")] if choice is None else _configs(choice)
                self._networks[tower, precision] = NetworkSequence.read(self.compiled.folder, configs)
            return self._networks[tower, precision]


def choose(folder: Path, tower: str, precision: Precision, samples: Sequence[np.ndarray]) -> Choice:
    """Return the fastest configuration of a compiled tower within a precision's bound; measured once, then remembered.

    Candidates are bfloat16, bfloat16 after a beginning in float32, and weights of eight bits.

    Args:
        folder: of the compiled model.
        tower: ``"image"``, ``"text"`` or ``"multilingual"``.
        precision: whose bound must be kept.
        samples: inputs to measure with, such as pixels (B, 3, H, W), or ids and mask (B, T).
    """
    file = folder / f"{tower}-{precision}.json"
    choice = remembered(file)
    if choice is not None and all((folder / config.file).is_file() for config in _configs(choice)):
        return choice
    model = openvino().Core().read_model(str(folder / f"{tower}.xml"))

    def candidate(*networks: tuple[NetworkConfig, Any]) -> Candidate:
        configs, models = [config for config, _ in networks], [model for _, model in networks]

        def load() -> Workload:
            run = NetworkSequence.of_models(models, configs)
            few = [array[:2] for array in samples]  # a second shape: kernels are generated for each
            return Workload(lambda: np.concatenate([run(*samples)[0], run(*few)[0]]), [lambda: run(*samples)])

        def save() -> None:
            for config, model in networks:
                if not (folder / config.file).is_file():
                    save_network(model, folder / config.file)

        return Candidate([asdict(config) for config in configs], load, save)

    tuner = Autotuner(candidate((NetworkConfig(f"{tower}.xml"), model)), precision)
    if not tuner.consider(candidate((NetworkConfig(f"{tower}.xml", "bf16"), model))):
        before, after = (f"{tower}-{precision}-{part}.xml" for part in ("before", "after"))
        cuts = [parts for name in split_network.split_points(model) if (parts := split_network.split_at(model, name))]
        _shortest_prefix(
            [candidate((NetworkConfig(before), one), (NetworkConfig(after, "bf16"), two)) for one, two in cuts], tuner
        )
    if precision == "fastest" and (sizes := quantization.group_sizes(model)):
        quantized = quantization.quantize_per_channel(model)
        for size in sizes:
            tuner.consider(candidate((NetworkConfig(f"{tower}-int8.xml", "bf16", size), quantized)))
    return remember(tuner, file)


def _configs(choice: Choice) -> list[NetworkConfig]:
    return [NetworkConfig(**config) for config in choice.config]


def _shortest_prefix(candidates: Sequence[Candidate], tuner: Autotuner) -> None:
    """Search for the shortest beginning in float32 after which bfloat16 is within the bound, by bisection.

    In a convolutional network, most of the error comes from the first layers, which see the pixels themselves.
    """
    low, high = 0, len(candidates) - 1
    while low <= high:
        middle = (low + high) // 2
        if tuner.consider(candidates[middle]):
            high = middle - 1
        else:
            low = middle + 1


def _read(folder: Path, metadata: dict[str, Any]) -> CompiledDualEncoder:
    second = metadata.pop(MULTILINGUAL, None)
    return CompiledDualEncoder(
        folder=folder,
        preprocessing=read_preprocessing(metadata.pop("preprocessing")),
        tokenizer=Tokenizer.load(folder, metadata.pop("tokenizer")),
        calibration=Calibration.load(folder),
        multilingual=None if second is None else CompiledTextEncoder(folder, second),
        **metadata,
    )


def _metadata(loaded: LoadedDualEncoder) -> dict[str, Any]:
    from beholder.weights.native import fingerprint

    towers = _torch_towers(loaded)
    second = loaded.multilingual
    return {
        "name": loaded.name,
        "licence": loaded.licence,
        "preprocessing": asdict(loaded.preprocessing),
        "tokenizer": asdict(loaded.tokenizer.settings),
        MULTILINGUAL: None if second is None else asdict(second.tokenizer.settings),
        "embedding": towers.embedding,
        "scale": towers.scale,
        "bias": towers.bias,
        "fingerprint": fingerprint(loaded),
    }


def _write(loaded: LoadedDualEncoder, folder: Path) -> None:
    loaded.tokenizer.save(folder)
    if loaded.calibration is not None:
        loaded.calibration.save(folder)
    second = loaded.multilingual
    if second is not None:
        second.tokenizer.save(folder, tokenizer.MULTILINGUAL_FILE)
        if second.calibration is not None:
            second.calibration.save(folder, calibration.MULTILINGUAL_FILE)


def _convert_towers(loaded: LoadedDualEncoder, folder: Path) -> None:
    import torch
    from torch import Tensor, nn

    class Image(nn.Module):
        def __init__(self, network: TwoTowers):
            super().__init__()
            self.network = network

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            pooled = self.network.image(pixels).pooled
            return self.network.project_image(pooled), pooled

    class Text(nn.Module):
        def __init__(self, network: TwoTowers | TextEncoder):
            super().__init__()
            self.network = network

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.network.embed_text(ids, mask)

    pixels, tokens = _samples(loaded)
    convert(Image(loaded.network), [torch.from_numpy(pixels)], [[-1, *pixels.shape[1:]]], folder / "image.xml")
    inputs = [torch.from_numpy(array) for array in (tokens.ids, tokens.mask)]
    # A causal tower ignores the mask.
    convert(Text(loaded.network), inputs, [[-1, -1], [-1, -1]], folder / "text.xml", unused=True)
    if loaded.multilingual is not None:
        second = Text(loaded.multilingual.network)
        others = sample_tokens(loaded.multilingual.tokenizer, VERIFIED)
        inputs = [torch.from_numpy(array) for array in (others.ids, others.mask)]
        convert(second, inputs, [[-1, -1], [-1, -1]], folder / f"{MULTILINGUAL}.xml", unused=True)


def _torch_towers(loaded: LoadedDualEncoder) -> TorchTowers:
    import torch

    from beholder.runtime.towers import TorchTowers

    second = loaded.multilingual
    return TorchTowers(loaded.network, torch.device("cpu"), None if second is None else second.network)


def _verify(compiled: CompiledDualEncoder, loaded: LoadedDualEncoder) -> None:
    """Compare embeddings and pooled features with those of the network in torch.

    Raises:
        ModelError: a difference is larger than another order of additions explains.
    """
    difference = _difference(_torch_towers(loaded), CompiledTowers(compiled), loaded)
    if not difference <= TOLERANCE:
        raise ModelError(f"the compiled network's vectors are off by {difference:.1e}")


def _samples(loaded: LoadedDualEncoder) -> tuple[np.ndarray, Any]:
    """Return pixels (B, 3, H, W), and as many sentences."""
    return sample_pixels(loaded.preprocessing, VERIFIED), sample_tokens(loaded.tokenizer, VERIFIED)


def _difference(one: Any, other: Any, loaded: LoadedDualEncoder) -> float:
    """Return the largest difference between two towers' vectors, over batches of several sizes."""
    pixels, tokens = _samples(loaded)
    differences = []
    for count in (1, len(pixels)):
        inputs = {"embed_image": [pixels[:count]], "pooled_image": [pixels[:count]]}
        inputs["embed_text"] = [tokens.ids[-count:], tokens.mask[-count:]]
        if loaded.multilingual is not None:
            others = sample_tokens(loaded.multilingual.tokenizer, VERIFIED)
            inputs["embed_multilingual_text"] = [others.ids[-count:], others.mask[-count:]]
        for method, arrays in inputs.items():
            expected = getattr(one, method)(*arrays)
            scale = max(1.0, float(np.abs(expected).max()))  # pooled features may be large
            differences.append(np.abs(expected - getattr(other, method)(*arrays)).max() / scale)
    return float(np.max(differences))


COMPILED_DUAL_ENCODER = CompiledFormat(
    "compiled.json", 3, mini_parts.model_folder, _read, _metadata, _write, _convert_towers, _verify
)
