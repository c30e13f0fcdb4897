"""The generator's two networks as the tasks call them: arrays in, arrays out, on any back end.

Shapes: B batch, S side of a picture, E the shared space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from beholder.models.rectified_flow import Method

if TYPE_CHECKING:
    import torch

    from beholder.models.unclip import Unclip

OnStep = Callable[[int, Callable[[], np.ndarray]], None]  # the step, and what returns the predicted pictures


class UnclipNetworks(Protocol):
    """The back end that runs prior and decoder. Threads may share it."""

    @property
    def engine(self) -> str:
        """Name of the back end and device, such as ``"torch on cpu"``."""
        ...

    @property
    def embedding(self) -> int:
        """E."""
        ...

    @property
    def image_size(self) -> int:
        """S."""
        ...

    @property
    def mean(self) -> np.ndarray:
        """(E,), of the embeddings of pictures."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hexadecimal hash of settings and tensors."""
        ...

    def noise(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the noise that a seed means, for an embedding (1, E) and for a picture (1, 3, S, S)."""
        ...

    def imagine(
        self, sentences: np.ndarray, noise: np.ndarray, steps: int, guidance: float, method: Method
    ) -> np.ndarray:
        """As `Unclip.imagine`: (B, E), noise (B, E) → (B, E)."""
        ...

    def draw(
        self, embeddings: np.ndarray, noise: np.ndarray, steps: int, guidance: float, method: Method, on_step: OnStep
    ) -> np.ndarray:
        """As `Unclip.draw`: (B, E), noise (B, 3, S, S) → (B, 3, S, S)."""
        ...


class TorchUnclip:
    """The networks in torch.

    Args:
        network: both of them.
        device: where to run.
    """

    def __init__(self, network: Unclip, device: torch.device):
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = device
        self.engine = f"torch on {device.type}"

    @property
    def embedding(self) -> int:  # noqa: D102
        return self.network.settings.decoder.embedding

    @property
    def image_size(self) -> int:  # noqa: D102
        return self.network.settings.decoder.image_size

    @property
    def mean(self) -> np.ndarray:  # noqa: D102
        return self.network.images.mean.cpu().numpy()

    @property
    def fingerprint(self) -> str:  # noqa: D102
        return unclip_fingerprint(self.network)

    def noise(self, seed: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        import torch

        draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
        return draw(1, self.embedding).numpy(), draw(1, 3, self.image_size, self.image_size).numpy()

    def imagine(  # noqa: D102
        self, sentences: np.ndarray, noise: np.ndarray, steps: int, guidance: float, method: Method
    ) -> np.ndarray:
        import torch

        with torch.inference_mode():
            found = self.network.imagine(self._tensor(sentences), self._tensor(noise), steps, guidance, method)
        return found.cpu().numpy()

    def draw(  # noqa: D102
        self, embeddings: np.ndarray, noise: np.ndarray, steps: int, guidance: float, method: Method, on_step: OnStep
    ) -> np.ndarray:
        import torch

        def report(step: int, predicted: torch.Tensor) -> None:
            on_step(step, lambda: predicted.float().cpu().numpy())

        with torch.inference_mode():
            pixels = self.network.draw(self._tensor(embeddings), self._tensor(noise), steps, guidance, method, report)
        return pixels.float().cpu().numpy()

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(array).to(self.device)


def unclip_fingerprint(network: Unclip) -> str:
    """Return a hexadecimal hash of settings and tensors."""
    digest = hashlib.sha256(json.dumps(network.settings.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
