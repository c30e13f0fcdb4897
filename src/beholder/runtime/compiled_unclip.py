"""An image generator compiled for the processor by OpenVINO: the same pictures within a bound, without importing torch.

    unclip.json              metadata
    decoder.xml, prior.xml   the networks, with their weights in decoder.bin and prior.bin
    statistics.npz           mean and scale of pictures' and of sentences' embeddings
    decoder-fast.json, …     the configuration chosen for a precision (`beholder.runtime.compiled_denoiser`)
    kernels/                 OpenVINO's cache

Its dual encoder is compiled by itself (`beholder.runtime.compiled_dual_encoder`). Shapes: B batch, S side of a picture,
E the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import ModelError
from beholder.models.rectified_flow import GuidedVelocity, Method, integrate
from beholder.runtime.compiled_denoiser import Call, choose, verify
from beholder.runtime.compiled_model import CompiledFormat, convert
from beholder.runtime.engine import Network, NetworkConfig, compile_network
from beholder.runtime.noise import TorchGenerator
from beholder.runtime.precision import Precision
from beholder.runtime.unclip_networks import OnStep, unclip_fingerprint
from beholder.weights import mini_generator

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.weights.native_generator import LoadedImageGenerator

DECODER, PRIOR = "decoder", "prior"
RECORDED_STEPS, RECORDED_GUIDANCE = 5, 3.0  # of a drawing on whose calls configurations are compared


@dataclass(frozen=True)
class Statistics:
    """Mean (E,) and scale () of embeddings."""

    mean: np.ndarray
    scale: np.ndarray

    def sample(self, random: np.random.Generator) -> np.ndarray:
        """Return an embedding (1, E) of unit length that might be one of them."""
        return _unit(self.mean + self.scale * random.standard_normal((1, len(self.mean)), np.float32))


@dataclass(frozen=True)
class CompiledUnclip:
    """The contents of a compiled folder.

    Attributes:
        source: name or path that the generator was compiled from.
        name: of the generator.
        encoder: the dual encoder that drives it: ``"mini"``, or its folder.
        embedding: E.
        image_size: S.
        fingerprint: of the networks.
        processor: that it was compiled for.
    """

    folder: Path
    source: str
    name: str
    encoder: str
    embedding: int
    image_size: int
    fingerprint: str
    processor: str

    @cached_property
    def images(self) -> Statistics:
        """Of the embeddings of pictures."""
        return self._statistics("images")

    @cached_property
    def sentences(self) -> Statistics:
        """Of the embeddings of sentences."""
        return self._statistics("sentences")

    def _statistics(self, of: str) -> Statistics:
        with np.load(self.folder / "statistics.npz") as arrays:
            return Statistics(arrays[f"{of}_mean"], arrays[f"{of}_scale"])


class CompiledUnclipNetworks:
    """The compiled networks, each loaded on first use. Threads may share them.

    Args:
        compiled: from `COMPILED_UNCLIP`.
        precision: how close what the networks predict at each step must be to what they predict in float32. The fastest
            configuration is measured on first use, and remembered.
    """

    def __init__(self, compiled: CompiledUnclip, precision: Precision):
        self.compiled = compiled
        self.precision: Precision = precision
        self.engine = "OpenVINO on cpu" + ("" if precision == "exact" else f", {precision}")
        self.embedding, self.image_size = compiled.embedding, compiled.image_size
        self.fingerprint = compiled.fingerprint
        self._networks: dict[tuple[str, Precision], Network] = {}
        self._loading = RLock()  # one thread loads, the others wait

    @property
    def mean(self) -> np.ndarray:
        """(E,), of the embeddings of pictures."""
        return self.compiled.images.mean

    def noise(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the noise that a seed means, for an embedding (1, E) and for a picture (1, 3, S, S)."""
        generator = TorchGenerator(seed)
        return generator.randn(1, self.embedding), generator.randn(1, 3, self.image_size, self.image_size)

    def imagine(
        self, sentences: np.ndarray, noise: np.ndarray, steps: int, guidance: float, method: Method
    ) -> np.ndarray:
        """As `Unclip.imagine`: (B, E), noise (B, E) → (B, E)."""
        field = GuidedVelocity(partial(self.predict, PRIOR), sentences, guidance, clip=False)
        found = integrate(field, noise, steps, method)
        return _unit(found * self.compiled.images.scale + self.compiled.images.mean)

    def draw(
        self, embeddings: np.ndarray, noise: np.ndarray, steps: int, guidance: float, method: Method, on_step: OnStep
    ) -> np.ndarray:
        """As `Unclip.draw`: (B, E), noise (B, 3, S, S) → (B, 3, S, S)."""
        field = GuidedVelocity(partial(self.predict, DECODER), embeddings, guidance, clip=True)

        def report(step: int, _: np.ndarray) -> None:
            predicted = field.predicted
            on_step(step, lambda: predicted)

        return integrate(field, noise, steps, method, report).clip(-1, 1)

    def predict(self, part: str, *inputs: np.ndarray) -> np.ndarray:
        """Return the data that a network predicts.

        Args:
            part: ``"decoder"`` or ``"prior"``.
            inputs: noisy data (B, …), times (B,), embeddings (B, E), and which are left out (B,).
        """
        predicted = self._network(part, self.precision)(*inputs)[0]
        if self.precision != "exact" and not np.isfinite(predicted).all():  # in bfloat16, an unusual input may overflow
            return self._network(part, "exact")(*inputs)[0]
        return predicted

    def _network(self, part: str, precision: Precision) -> Network:
        with self._loading:
            if (part, precision) not in self._networks:
                config = None
                if precision != "exact":
                    config = choose(self.compiled.folder, part, precision, partial(record, self.compiled, part))
                self._networks[part, precision] = Network(
                    compile_network(self.compiled.folder, config or NetworkConfig(f"{part}.xml"))
                )
            return self._networks[part, precision]


def record(compiled: CompiledUnclip, part: str) -> Sequence[Call]:
    """Return the calls of one of the networks while it draws in single precision what might have been asked for."""
    networks, random = CompiledUnclipNetworks(compiled, "exact"), np.random.default_rng(0)
    calls: list[Call] = []

    def predict(*inputs: np.ndarray) -> np.ndarray:
        calls.append(inputs)
        return networks.predict(part, *inputs)

    of_embedding, of_picture = networks.noise(0)
    statistics, noise = (compiled.images, of_picture) if part == DECODER else (compiled.sentences, of_embedding)
    field = GuidedVelocity(predict, statistics.sample(random), RECORDED_GUIDANCE, clip=part == DECODER)
    integrate(field, noise, RECORDED_STEPS, "euler")
    return calls


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)


def _read(folder: Path, metadata: dict[str, Any]) -> CompiledUnclip:
    return CompiledUnclip(folder=folder, **metadata)


def _metadata(loaded: LoadedImageGenerator) -> dict[str, Any]:
    encoder = loaded.encoder
    if not isinstance(encoder, str | Path):
        raise ModelError("its dual encoder is in memory only; save the generator into a folder")
    decoder = loaded.network.settings.decoder
    return {
        "name": loaded.name,
        "encoder": str(encoder.absolute() if isinstance(encoder, Path) else encoder),
        "embedding": decoder.embedding,
        "image_size": decoder.image_size,
        "fingerprint": unclip_fingerprint(loaded.network),
    }


def _write(loaded: LoadedImageGenerator, folder: Path) -> None:
    arrays = {
        f"{name}_{part}": getattr(getattr(loaded.network, name), part).cpu().numpy()
        for name in ("images", "sentences")
        for part in ("mean", "scale")
    }
    np.savez(folder / "statistics.npz", **arrays)


def _convert(loaded: LoadedImageGenerator, folder: Path) -> None:
    import torch

    for part, (predict, data) in _networks(loaded).items():
        generator = torch.Generator().manual_seed(0)
        noisy = torch.randn(2, *data, generator=generator)
        embeddings = torch.randn(2, loaded.network.settings.decoder.embedding, generator=generator)
        inputs = [noisy, torch.tensor([0.25, 0.5]), embeddings, torch.tensor([False, True])]
        convert(predict, inputs, [[-1, *each.shape[1:]] for each in inputs], folder / f"{part}.xml")


def _networks(loaded: LoadedImageGenerator) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return the modules that are compiled, each with the shape of its data; they standardize the embeddings."""
    from torch import nn

    class Predict(nn.Module):
        def __init__(self, network: nn.Module, standardization: nn.Module):
            super().__init__()
            self.network, self.standardization = network, standardization

        def forward(self, noisy: Tensor, time: Tensor, embedding: Tensor, dropped: Tensor) -> Tensor:
            return self.network(noisy, time, self.standardization(embedding), dropped)

    network = loaded.network
    decoder = network.settings.decoder
    return {
        DECODER: (Predict(network.decoder, network.images), (3, decoder.image_size, decoder.image_size)),
        PRIOR: (Predict(network.prior, network.sentences), (decoder.embedding,)),
    }


def _verify(compiled: CompiledUnclip, loaded: LoadedImageGenerator) -> None:
    """Compare what the networks predict with what they predict in torch.

    Raises:
        ModelError: a difference is larger than another order of additions explains.
    """
    import torch

    networks = CompiledUnclipNetworks(compiled, "exact")
    for part, (predict, _) in _networks(loaded).items():

        def expected(*inputs: np.ndarray, predict: Any = predict) -> np.ndarray:
            with torch.inference_mode():
                found: np.ndarray = predict(*(torch.from_numpy(array) for array in inputs)).numpy()
            return found

        verify(part, partial(networks.predict, part), expected, record(compiled, part))


COMPILED_UNCLIP = CompiledFormat(
    "unclip.json", 1, mini_generator.folder, _read, _metadata, _write, _convert, _verify, prefix="unclip-"
)
