"""A dual encoder's two towers as the tasks call them: arrays in, unit vectors out, whatever runs them.

Shapes: B pictures or sentences, T text tokens, D the picture tower's width, E the shared space.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np

from beholder.files import write_text
from beholder.runtime.device import hardware_name
from beholder.runtime.precision import BOUNDS, Precision
from beholder.runtime.samples import sample_pixels, sample_tokens
from beholder.version import __version__
from beholder.weights.cache import cache_folder

if TYPE_CHECKING:
    import torch

    from beholder.models.dual_encoder import TwoTowers
    from beholder.weights.loaded import LoadedDualEncoder

ROUNDS = 3  # of which the quickest counts
SOME = 64  # numbers of each tensor by which weights are told apart
FEW = 8  # pictures, for which a GPU waits for the calls that start its kernels rather than for the kernels


class Towers(Protocol):
    """What runs the network.

    Attributes:
        engine: what runs it and where, such as ``"torch on cuda"``.
        embedding: E.
        scale: the factor from cosines to logits.
        bias: what is added to the logits, where the network was trained with one.
        batch: how many pictures or sentences are best given at once.
    """

    batch: int

    @property
    def engine(self) -> str: ...  # noqa: D102
    @property
    def embedding(self) -> int: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102
    @property
    def bias(self) -> float | None: ...  # noqa: D102

    def embed_image(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) float32 → (B, E) float32, unit length."""
        ...

    def pooled_image(self, pixels: np.ndarray) -> np.ndarray:
        """What the picture tower pools, before its head: (B, 3, H, W) float32 → (B, D) float32."""
        ...

    def embed_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Ids (B, T), mask (B, T) true where there is no padding → (B, E) float32, unit length."""
        ...


class TorchTowers:
    """The network itself, in torch.

    A batch that the device has no memory for is computed in halves.
    """

    def __init__(self, network: TwoTowers, device: torch.device):
        self.network = network.to(device).eval()
        self.device = device
        self.dtype = next(network.parameters()).dtype
        half = "" if self.dtype.itemsize == 4 else f", {str(self.dtype).removeprefix('torch.')}"
        self.engine = f"torch on {device.type}{half}"
        self.batch = 16 if device.type == "cpu" else 128

    @property
    def embedding(self) -> int:  # noqa: D102
        return self.network.settings.embedding

    @property
    def scale(self) -> float:  # noqa: D102
        return self.network.logit_scale.float().exp().item()

    @property
    def bias(self) -> float | None:  # noqa: D102
        return None if self.network.logit_bias is None else self.network.logit_bias.float().item()

    def embed_image(self, pixels: np.ndarray) -> np.ndarray:  # noqa: D102
        return self._compute(self.network.embed_image, pixels)

    def pooled_image(self, pixels: np.ndarray) -> np.ndarray:  # noqa: D102
        return self._compute(lambda batch: self.network.image(batch).pooled, pixels)

    def embed_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:  # noqa: D102
        return self._compute(self.network.embed_text, ids, mask)

    def _compute(self, function: Callable[..., torch.Tensor], *inputs: np.ndarray) -> np.ndarray:
        import torch

        try:
            with torch.inference_mode():
                rows = (torch.from_numpy(array).to(self.device) for array in inputs)
                rows = (row.to(self.dtype) if row.is_floating_point() else row for row in rows)
                return function(*rows).float().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(inputs[0]) == 1:
                raise
        middle = len(inputs[0]) // 2
        parts = [array[:middle] for array in inputs], [array[middle:] for array in inputs]
        return np.concatenate([self._compute(function, *part) for part in parts])


class FusedTowers(TorchTowers):
    """The network in torch, its picture tower compiled by ``torch.compile``, which fuses what lies between products.

    Each size of batch is compiled for itself, in up to a minute, so there are two: full batches, and a few pictures,
    for which a batch is filled up. On a GPU the latter are a CUDA graph. Any other batch runs as it is.
    """

    def __init__(self, network: TwoTowers, device: torch.device):
        import torch

        super().__init__(network, device)
        self.engine += ", compiled"
        self.fused = torch.compile(network.embed_image, dynamic=False)

    @cached_property
    def few(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The picture tower for so many pictures."""
        return Recorded(self.fused) if self.device.type == "cuda" else self.fused

    def embed_image(self, pixels: np.ndarray) -> np.ndarray:  # noqa: D102
        count = len(pixels)
        if count <= FEW:
            return self._compute(self.few, np.concatenate([pixels, pixels[:1].repeat(FEW - count, 0)]))[:count]
        return self._compute(self.fused if count == self.batch else self.network.embed_image, pixels)


class Recorded:
    """A function of one tensor, recorded at its first call as a CUDA graph: one call starts all its kernels.

    Args:
        function: computes on a GPU, always on tensors of the same shape, and without asking what it computed.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None
        self.one_at_a_time = Lock()  # they all write into the same memory

    def __call__(self, given: torch.Tensor) -> torch.Tensor:  # noqa: D102
        with self.one_at_a_time:
            if self.graph is None:
                self.graph = self._record(given)
            if given.shape != self.given.shape:  # half a batch that there was no memory for
                return self.function(given)
            self.given.copy_(given)
            self.graph.replay()
            return self.found.clone()

    def _record(self, given: torch.Tensor) -> torch.cuda.CUDAGraph:
        import torch

        self.given = given.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is compiled or chosen at first is no part of a graph
            for _ in range(3):
                self.function(self.given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may ask for memory meanwhile
            self.found = self.function(self.given)
        return graph


def torch_towers(loaded: LoadedDualEncoder, device: torch.device, precision: Precision = "exact") -> TorchTowers:
    """A loaded network's towers: the fastest of those here that are near enough to the network in single precision.

    ``"fast"`` may be in bfloat16, which on a GPU is also what FlashAttention needs (`scaled_dot_product_attention`
    takes it then); ``"fastest"`` is compiled on a GPU, too. The network itself stays in single precision. Which is the
    fastest is measured the first time for these weights on this device, and remembered.
    """
    import torch

    own = TorchTowers(loaded.network, device)
    if precision == "exact":
        return own
    place = _place(own, precision)
    remembered = ""
    with suppress(OSError):
        remembered = place.read_text("utf-8", "replace")
    if remembered == own.engine:
        return own
    others: list[TorchTowers] = [TorchTowers(deepcopy(loaded.network).to(torch.bfloat16), device)]
    if precision == "fastest" and device.type == "cuda":
        others.append(FusedTowers(others[0].network, device))
    for other in others:
        if other.engine == remembered:
            return other
    best, all_tried = fastest(own, others, loaded, precision)
    if all_tried:
        with suppress(OSError):  # a full disk only means that it is measured again
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, best.engine)
    return best


def fastest(
    own: TorchTowers, others: Sequence[TorchTowers], loaded: LoadedDualEncoder, precision: Precision
) -> tuple[TorchTowers, bool]:
    """The towers that take the least time for some pictures, of those that keep a precision's promise.

    Args:
        own: the network in single precision.
        others: those that can't be compiled are passed over with a warning.
        loaded: whose towers they are.
        precision: what is promised.

    Returns:
        the towers, and whether all could be tried.
    """
    pixels, tokens = sample_pixels(loaded.preprocessing), sample_tokens(loaded.tokenizer)

    def tried(towers: TorchTowers) -> tuple[np.ndarray, float]:
        vectors = np.concatenate([towers.embed_image(pixels), towers.embed_text(tokens.ids, tokens.mask)])
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            towers.embed_image(pixels)
            seconds.append(time.perf_counter() - began)
        return vectors, min(seconds)

    best, (exact, least) = own, tried(own)
    all_tried = True
    for other in others:
        try:
            vectors, seconds = tried(other)
        except RuntimeError as error:
            if not isinstance(other, FusedTowers):
                raise
            reason = str(error).splitlines()[0]
            warnings.warn(f"{loaded.name}: torch can't compile it here, so it runs as it is ({reason})", stacklevel=2)
            all_tried = False
            continue
        if seconds < least and float(np.sum(exact * vectors, axis=1).min()) >= BOUNDS[precision]:
            best, least = other, seconds
    return best, all_tried


def _place(own: TorchTowers, precision: Precision) -> Path:
    """Where it is remembered which towers are the fastest for these weights on this device."""
    import torch

    settings = json.dumps(own.network.settings.to_dict(), sort_keys=True)
    facts = (precision, hardware_name(own.device), own.engine, torch.__version__, __version__, settings)
    digest = sha256("\n".join(facts).encode())
    for name, tensor in own.network.state_dict().items():  # the beginning of each tells weights apart
        some = tensor.detach().flatten()[:SOME].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return cache_folder() / "fastest" / digest.hexdigest()[:24]
