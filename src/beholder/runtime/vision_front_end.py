"""The visual half of a vision-language model: pixels in, image tokens and soft prompts out.

Shapes: B images, N image tokens, Di their width, P soft prompts, Dl the language model's width, T text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from beholder.models.bridge import Bridge, image_tokens
from beholder.models.connector import Connector
from beholder.runtime.device import bfloat16_is_faster
from beholder.runtime.engine import Network, NetworkConfig

if TYPE_CHECKING:
    from beholder.runtime.precision import Precision


class VisionFrontEnd(Protocol):
    """An image tower, and a bridge or a connector."""

    def tokens(self, pixels: np.ndarray) -> Tensor:
        """(B, 3, H, W) → (B, N, Di)."""
        ...

    def prompts(self, tokens: Tensor) -> Tensor:
        """(B, N, Di) → (B, P, Dl)."""
        ...

    def match(self, tokens: Tensor, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the probabilities (n,) that n texts (n, T) match one image (1, N, Di)."""
        ...


class TorchFrontEnd:
    """The networks in torch; ``"fast"`` and ``"fastest"`` use bfloat16 where that is faster.

    Their weights are converted in place, one after another, so that a checkpoint never exists twice.
    """

    def __init__(
        self, tower: nn.Module, bridge: Bridge | Connector, device: torch.device, precision: Precision = "exact"
    ):
        self.tower, self.bridge = tower.to(device).eval(), bridge.to(device).eval()
        self.device = device
        for network in (self.tower, self.bridge):
            if precision != "exact" and bfloat16_is_faster(device):
                round_linear_weights(network)
            else:
                network.float()

    @torch.inference_mode()
    def tokens(self, pixels: np.ndarray) -> Tensor:  # noqa: D102
        with autocast_to_weights(self.tower):
            return image_tokens(self.tower, torch.from_numpy(pixels).to(self.device)).float()

    @torch.inference_mode()
    def prompts(self, tokens: Tensor) -> Tensor:  # noqa: D102
        with autocast_to_weights(self.bridge):
            return self.bridge.soft_prompts(tokens).float()

    @torch.inference_mode()
    def match(self, tokens: Tensor, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:  # noqa: D102
        if not isinstance(self.bridge, Bridge):
            raise TypeError("a connector does not match texts")
        texts = torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
        with autocast_to_weights(self.bridge):
            logits = self.bridge.match(tokens.expand(len(ids), -1, -1), *texts)
        return logits.float().softmax(-1)[:, 1].cpu().numpy()


def round_linear_weights(network: nn.Module) -> None:
    """Convert the weights that autocast would round for each call to bfloat16, and all other numbers to float32."""
    for module in network.modules():
        dtype = torch.bfloat16 if isinstance(module, nn.Linear | nn.Conv2d) else torch.float32
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)


def autocast_to_weights(network: nn.Module) -> AbstractContextManager[object]:
    """Return the context in which a network runs whose weights `round_linear_weights` may have converted."""
    for parameter in network.parameters():
        if parameter.dtype == torch.bfloat16:
            return torch.autocast(parameter.device.type, torch.bfloat16)
    return nullcontext()


class CompiledFrontEnd:
    """The compiled networks, each loaded on first use. Threads may share them.

    Args:
        read: loads a network of the compiled model.
        tower, bridge: their configurations; the matching head has the bridge's precision.
    """

    def __init__(self, read: Callable[[NetworkConfig], Network], tower: NetworkConfig, bridge: NetworkConfig):
        self.read = read
        self.configs = {"tower": tower, "bridge": bridge, "matching": NetworkConfig("matching.xml", bridge.precision)}
        self._networks: dict[str, Network] = {}
        self._loading = RLock()  # one thread loads, the others wait

    def tokens(self, pixels: np.ndarray) -> Tensor:  # noqa: D102
        return torch.from_numpy(self._run("tower", pixels))

    def prompts(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return torch.from_numpy(self._run("bridge", tokens.numpy()))

    def match(self, tokens: Tensor, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:  # noqa: D102
        return self._run("matching", tokens.numpy(), ids, mask)

    def _run(self, part: str, *inputs: np.ndarray) -> np.ndarray:
        with self._loading:
            if part not in self._networks:
                self._networks[part] = self.read(self.configs[part])
        return self._networks[part](*inputs)[0]
