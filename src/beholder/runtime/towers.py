"""A dual encoder's two towers as the tasks call them: arrays in, unit vectors out, whatever runs them.

Shapes: B pictures or sentences, T text tokens, D the picture tower's width, E the shared space.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Protocol

import numpy as np

from beholder.runtime.precision import BOUNDS, Precision
from beholder.runtime.samples import sample_pixels, sample_tokens

if TYPE_CHECKING:
    import torch

    from beholder.models.dual_encoder import TwoTowers
    from beholder.weights.loaded import LoadedDualEncoder


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


def torch_towers(loaded: LoadedDualEncoder, device: torch.device, precision: Precision = "exact") -> TorchTowers:
    """A loaded network's towers: for any precision but ``"exact"`` in bfloat16, if that is faster here and near enough.

    The network itself stays in single precision. On a GPU, bfloat16 is also what FlashAttention needs
    (`scaled_dot_product_attention` takes it then).
    """
    import torch

    own = TorchTowers(loaded.network, device)
    if precision == "exact":
        return own
    half = TorchTowers(deepcopy(loaded.network).to(torch.bfloat16), device)
    pixels, tokens = sample_pixels(loaded.preprocessing), sample_tokens(loaded.tokenizer)
    seconds, vectors = [], []
    for towers in (own, half):
        vectors.append(np.concatenate([towers.embed_image(pixels), towers.embed_text(tokens.ids, tokens.mask)]))
        began = time.perf_counter()
        towers.embed_image(pixels)
        seconds.append(time.perf_counter() - began)
    near = float(np.sum(vectors[0] * vectors[1], axis=1).min()) >= BOUNDS[precision]
    return half if near and seconds[1] < seconds[0] else own
