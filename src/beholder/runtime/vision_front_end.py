"""What looks at a picture for a language model, whatever runs it: pixels in, picture tokens and soft prompts out.

Shapes: B pictures, N picture tokens, Di their width, Q soft prompts, Dl the language model's width, T text tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from beholder.models.bridge import Bridge, image_tokens
from beholder.runtime.device import bfloat16_is_faster

if TYPE_CHECKING:
    from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
    from beholder.runtime.engine import Stage
    from beholder.runtime.precision import Precision


class VisionFrontEnd(Protocol):
    """A picture tower and a bridge."""

    def tokens(self, pixels: np.ndarray) -> Tensor:
        """(B, 3, H, W) → (B, N, Di)."""
        ...

    def prompts(self, tokens: Tensor) -> Tensor:
        """(B, N, Di) → (B, Q, Dl)."""
        ...

    def match(self, tokens: Tensor, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The probabilities (n,) that n texts (n, T) fit one picture (1, N, Di)."""
        ...


class TorchFrontEnd:
    """The networks themselves; "fast" and "fastest" are bfloat16 where that is faster."""

    def __init__(self, tower: nn.Module, bridge: Bridge, device: torch.device, precision: Precision = "exact"):
        self.tower, self.bridge = tower.to(device).eval(), bridge.to(device).eval()
        self.device = device
        self.half = precision != "exact" and bfloat16_is_faster(device)

    @torch.inference_mode()
    def tokens(self, pixels: np.ndarray) -> Tensor:  # noqa: D102
        with self._arithmetic():
            return image_tokens(self.tower, torch.from_numpy(pixels).to(self.device)).float()

    @torch.inference_mode()
    def prompts(self, tokens: Tensor) -> Tensor:  # noqa: D102
        with self._arithmetic():
            return self.bridge.soft_prompts(tokens).float()

    @torch.inference_mode()
    def match(self, tokens: Tensor, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:  # noqa: D102
        texts = torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
        with self._arithmetic():
            logits = self.bridge.match(tokens.expand(len(ids), -1, -1), *texts)
        return logits.float().softmax(-1)[:, 1].cpu().numpy()

    def _arithmetic(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()


class CompiledFrontEnd:
    """The compiled networks, each read when it is first needed.

    Args:
        compiled: what `beholder.runtime.compiled_vision_language` made.
        tower, bridge: how they are computed; the matching head is as exact as the bridge.
    """

    def __init__(self, compiled: CompiledVisionLanguageModel, tower: Stage, bridge: Stage):
        self.compiled = compiled
        self.stages = tower, bridge

    @cached_property
    def tower(self) -> Any:  # noqa: D102
        return self.compiled.read(self.stages[0])

    @cached_property
    def bridge(self) -> Any:  # noqa: D102
        return self.compiled.read(self.stages[1])

    @cached_property
    def matching(self) -> Any:  # noqa: D102
        from beholder.runtime.engine import Stage

        return self.compiled.read(Stage("matching.xml", self.stages[1].arithmetic))

    def tokens(self, pixels: np.ndarray) -> Tensor:  # noqa: D102
        return torch.from_numpy(np.array(self.tower([pixels])[0]))  # the memory that OpenVINO gave is used again

    def prompts(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return torch.from_numpy(np.array(self.bridge([tokens.numpy()])[0]))

    def match(self, tokens: Tensor, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.array(self.matching([tokens.numpy(), ids, mask])[0])
