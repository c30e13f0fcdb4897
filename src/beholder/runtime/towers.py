"""A dual encoder's two towers as the tasks call them: arrays in, unit vectors out, on any back end.

Shapes: B images or texts, T text tokens, D the image tower's width, E the shared space.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np

from beholder.runtime.autotune import Autotuner, Candidate, Workload, remember, remembered
from beholder.runtime.device import hardware_name
from beholder.runtime.precision import Precision
from beholder.runtime.samples import sample_pixels, sample_tokens
from beholder.version import __version__
from beholder.weights.cache import cache_folder

if TYPE_CHECKING:
    import torch

    from beholder.models.dual_encoder import TwoTowers
    from beholder.models.text_encoder import TextEncoder
    from beholder.weights.loaded import LoadedDualEncoder

PROBE = 64  # numbers of each tensor that identify the weights
FEW = 8  # images, for which a GPU is bound by launching its kernels rather than by running them


class Towers(Protocol):
    """The back end that runs the network. Threads may share it.

    Attributes:
        engine: name of the back end and device, such as ``"torch on cuda"``.
        embedding: E.
        scale: the factor from cosines to logits.
        bias: of the logits, if the network has one.
        batch: the best batch size.
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
        """(B, 3, H, W), or marked patches (`beholder.pictures.naflex`), float32 → (B, E) float32, unit length."""
        ...

    def pooled_image(self, pixels: np.ndarray) -> np.ndarray:
        """Pooled features of the image tower, before its head: (B, 3, H, W) float32 → (B, D) float32."""
        ...

    def embed_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Ids (B, T), mask (B, T) false at padding → (B, E) float32, unit length."""
        ...

    def embed_multilingual_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Like `embed_text`, by the second text tower of a model that has one."""
        ...


class TorchTowers:
    """The network in torch.

    A batch that does not fit in the device's memory is computed in halves.

    Args:
        network: both towers.
        device: where to run.
        multilingual: the second text tower, if the model has one. It stays in single precision.
    """

    def __init__(self, network: TwoTowers, device: torch.device, multilingual: TextEncoder | None = None):
        self.network = network.to(device).eval()
        self.multilingual = None if multilingual is None else multilingual.to(device).eval()
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

    def embed_multilingual_text(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:  # noqa: D102
        if self.multilingual is None:
            raise TypeError("the model has a single text tower")
        return self._compute(self.multilingual.embed_text, ids, mask)

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
    """The network in torch, with its image tower compiled by ``torch.compile``.

    Each batch size is compiled separately, which takes up to a minute, so there are two: full batches, and a few
    images, padded to `FEW`. On a GPU the latter run as a CUDA graph. Other batches run uncompiled.
    """

    def __init__(self, network: TwoTowers, device: torch.device, multilingual: TextEncoder | None = None):
        import torch

        super().__init__(network, device, multilingual)
        self.engine += ", compiled"
        self.fused = torch.compile(network.embed_image, dynamic=False)

    @cached_property
    def few(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The image tower for `FEW` images."""
        return CudaGraph(self.fused) if self.device.type == "cuda" else self.fused

    def embed_image(self, pixels: np.ndarray) -> np.ndarray:  # noqa: D102
        count = len(pixels)
        if count <= FEW:
            return self._compute(self.few, np.concatenate([pixels, pixels[:1].repeat(FEW - count, 0)]))[:count]
        return self._compute(self.fused if count == self.batch else self.network.embed_image, pixels)


class CudaGraph:
    """A function of one tensor, captured as a CUDA graph on its first call: one call launches all kernels.

    Args:
        function: runs on a GPU, without synchronization.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None
        self.lock = Lock()  # all calls use the same memory

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:  # noqa: D102
        with self.lock:
            if self.graph is None:
                self.graph = self._capture(inputs)
            if inputs.shape != self.inputs.shape:  # half a batch, after running out of memory
                return self.function(inputs)
            self.inputs.copy_(inputs)
            self.graph.replay()
            return self.outputs.clone()

    def _capture(self, inputs: torch.Tensor) -> torch.cuda.CUDAGraph:
        import torch

        self.inputs = inputs.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm up: compilation and autotuning must not be captured
            for _ in range(3):
                self.function(self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may allocate meanwhile
            self.outputs = self.function(self.inputs)
        return graph


def torch_towers(loaded: LoadedDualEncoder, device: torch.device, precision: Precision = "exact") -> TorchTowers:
    """Return a network's towers, the fastest of those here within a precision's bound.

    ``"fast"`` may use bfloat16, which on a GPU also enables FlashAttention; ``"fastest"`` is compiled on a GPU, too.
    The network itself stays in float32. The fastest towers are measured once for these weights on this device, and
    remembered.
    """
    import torch

    second = None if loaded.multilingual is None else loaded.multilingual.network
    exact = TorchTowers(loaded.network, device, second)
    if precision == "exact":
        return exact
    file = _tuning_file(exact, precision)
    choice = remembered(file)
    if choice is not None and choice.config == exact.engine:
        return exact
    others: list[TorchTowers] = [TorchTowers(deepcopy(loaded.network).to(torch.bfloat16), device, second)]
    if precision == "fastest" and device.type == "cuda":
        others.append(FusedTowers(others[0].network, device, second))
    for towers in others:
        if choice is not None and choice.config == towers.engine:
            return towers
    tuner, complete = tune_towers(exact, others, loaded, precision)
    if complete:
        remember(tuner, file)
    return next(towers for towers in (exact, *others) if towers.engine == tuner.best.config)


def tune_towers(
    exact: TorchTowers, others: Sequence[TorchTowers], loaded: LoadedDualEncoder, precision: Precision
) -> tuple[Autotuner, bool]:
    """Find the fastest towers for a few images.

    Args:
        exact: the network in float32.
        others: candidates; those that can't be compiled are skipped with a warning.
        loaded: the model.
        precision: whose bound must be kept.

    Returns:
        The tuner, and whether all candidates could be tried.
    """
    pixels, tokens = sample_pixels(loaded.preprocessing), sample_tokens(loaded.tokenizer)

    def candidate(towers: TorchTowers) -> Candidate:
        def output() -> np.ndarray:
            return np.concatenate([towers.embed_image(pixels), towers.embed_text(tokens.ids, tokens.mask)])

        return Candidate(towers.engine, lambda: Workload(output, [lambda: towers.embed_image(pixels)]))

    tuner = Autotuner(candidate(exact), precision, wall_clock=exact.device.type != "cpu")
    complete = True
    for towers in others:
        try:
            tuner.consider(candidate(towers))
        except RuntimeError as error:
            if not isinstance(towers, FusedTowers):
                raise
            reason = str(error).splitlines()[0]
            warnings.warn(f"{loaded.name}: torch can't compile it here, so it is slower ({reason})", stacklevel=2)
            complete = False
    return tuner, complete


def _tuning_file(exact: TorchTowers, precision: Precision) -> Path:
    """Return where the choice for these weights on this device is remembered."""
    import torch

    settings = json.dumps(exact.network.settings.to_dict(), sort_keys=True)
    facts = (precision, hardware_name(exact.device), exact.engine, torch.__version__, __version__, settings)
    digest = sha256("\n".join(facts).encode())
    for name, tensor in exact.network.state_dict().items():  # the first numbers of each tensor identify the weights
        first = tensor.detach().flatten()[:PROBE].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + first.numpy().tobytes())
    return cache_folder() / "fastest" / f"{digest.hexdigest()[:24]}.json"
