"""Beholder's own image generator: a prior and a decoder behind `ImageGenerator`.

Pictures are drawn one at a time, each with noise of its own seed, so that a picture depends on nothing else that is
drawn in the same call. Shapes: E the shared space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import InvalidSetting, NotFinite
from beholder.models.rectified_flow import Method
from beholder.pictures.drawn import to_pictures
from beholder.runtime.compiled_unclip import CompiledUnclip, CompiledUnclipNetworks
from beholder.runtime.precision import Precision
from beholder.runtime.unclip_networks import TorchUnclip, UnclipNetworks
from beholder.tasks.dual_encoder import DualEncoder
from beholder.tasks.embedding_arithmetic import combine
from beholder.tasks.generator_backend import DrawingRequest, OnStep

if TYPE_CHECKING:
    from PIL import Image

    from beholder.weights.native_generator import LoadedImageGenerator

STEPS = 25
GUIDANCE = 2.0
PRIOR_STEPS = 25
PRIOR_GUIDANCE = 2.0
METHOD: Method = "euler"


class UnclipBackend:
    """A loaded generator with its dual encoder.

    Args:
        loaded: the networks, in torch or compiled.
        device: where to run; by default the fastest available. A compiled generator runs on the CPU.
        precision: of a compiled generator and its dual encoder. In torch, both run in single precision.
    """

    def __init__(
        self,
        loaded: LoadedImageGenerator | CompiledUnclip,
        device: str | None = None,
        precision: Precision = "exact",
    ):
        self.loaded = loaded
        self.networks: UnclipNetworks
        if isinstance(loaded, CompiledUnclip):
            self.networks = CompiledUnclipNetworks(loaded, precision)
            self.encoder = DualEncoder.from_pretrained(loaded.encoder, device="cpu", precision=precision)
        else:
            from beholder.runtime.device import select_device

            self.networks = TorchUnclip(loaded.network, select_device(device))
            if isinstance(loaded.encoder, str | Path):
                self.encoder = DualEncoder.from_pretrained(loaded.encoder, device=device)
            else:
                self.encoder = DualEncoder(loaded.encoder, device)
        size, expected = self.encoder.towers.embedding, self.networks.embedding
        if size != expected:
            raise InvalidSetting(
                f"{self.name}: draws embeddings of {expected} numbers, and its dual encoder makes some of {size}"
            )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name or "image generator"

    @property
    def size(self) -> int:
        """The side of the pictures, in pixels."""
        return self.networks.image_size

    @cached_property
    def fingerprint(self) -> str:
        """A hexadecimal hash of networks and encoder."""
        return hashlib.sha256((self.networks.fingerprint + self.encoder.fingerprint).encode()).hexdigest()

    def truncates(self, text: str) -> bool:
        """Whether a text is longer than what the dual encoder reads of it."""
        return any(bool(tokenizer([text]).truncated) for tokenizer, _, _ in self.encoder.by_text_tower([text]))

    def prepare(self, request: DrawingRequest) -> UnclipDrawer:
        """Check and embed a request.

        Raises:
            InvalidSetting: another size than the model's, or an embedding of another length.
        """
        if request.size not in (None, (self.size, self.size)):
            width, height = request.size
            raise InvalidSetting(f"size {width}x{height}: {self.name} draws {self.size}x{self.size} only")
        given = request.embedding
        expected = self.networks.embedding
        if given is not None and (given.shape != (expected,) or not np.isfinite(given).all() or not given.any()):
            raise InvalidSetting(f"embedding must be an array of {expected} finite numbers that are not all zero")
        return UnclipDrawer(self, request)


class UnclipDrawer:
    """A request whose texts and pictures have been embedded."""

    def __init__(self, backend: UnclipBackend, request: DrawingRequest):
        self.backend = backend
        self.steps = STEPS if request.steps is None else request.steps
        self.guidance = GUIDANCE if request.guidance is None else request.guidance
        encoder = backend.encoder
        self.pictures = list(encoder.embed_images(list(request.like))) if request.like else []
        if request.embedding is not None:
            self.pictures.append((request.embedding / np.linalg.norm(request.embedding)).astype(np.float32))
        texts = [*([] if request.text is None else [request.text]), *request.minus]
        self.plus = 0 if request.text is None else 1
        self.sentences = encoder.embed_texts(texts)

    def embedding(self, noise: np.ndarray) -> np.ndarray:
        """Return the embedding (E,) to draw, from noise (1, E)."""
        networks = self.backend.networks
        found = [  # all with the same noise, so that differences are those of the sentences
            networks.imagine(sentence[None], noise, PRIOR_STEPS, PRIOR_GUIDANCE, METHOD)[0]
            for sentence in self.sentences
        ]
        plus = [*self.pictures, *found[: self.plus]]
        minus = found[self.plus :]
        if len(plus) == 1 and not minus:
            return plus[0]
        return combine(plus, minus, networks.mean)

    def draw(self, seed: int, on_step: OnStep | None = None) -> Image.Image:
        """Draw a picture; the same seed draws the same one."""
        networks = self.backend.networks
        of_embedding, of_picture = networks.noise(seed)

        def report(step: int, predicted: Callable[[], np.ndarray]) -> None:
            if on_step is not None:
                on_step(step, self.steps, lambda: to_pictures(predicted())[0])

        embedding = self.embedding(of_embedding)[None]
        pixels = networks.draw(embedding, of_picture, self.steps, self.guidance, METHOD, report)
        if not np.isfinite(pixels).all():
            raise NotFinite(f"{self.backend.name}: the decoder gave NaN or infinity; its weights may be damaged")
        return to_pictures(pixels)[0]
