"""Beholder's own image generator: a prior and a decoder behind `ImageGenerator`.

Pictures are drawn one at a time, each with noise of its own seed, so that a picture depends on nothing else that is
drawn in the same call. Shapes: E the shared space.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from beholder.errors import InvalidSetting, NotFinite
from beholder.models.rectified_flow import Method
from beholder.pictures.drawn import to_pictures
from beholder.runtime.device import select_device
from beholder.tasks.dual_encoder import DualEncoder
from beholder.tasks.embedding_arithmetic import combine
from beholder.tasks.generator_backend import DrawingRequest, OnStep
from beholder.weights.loaded import LoadedDualEncoder

if TYPE_CHECKING:
    from PIL import Image

    from beholder.weights.native_generator import LoadedImageGenerator

STEPS = 25
GUIDANCE = 3.0
PRIOR_STEPS = 25
PRIOR_GUIDANCE = 2.0
METHOD: Method = "euler"


class UnclipBackend:
    """A loaded generator with its dual encoder.

    Args:
        loaded: the networks.
        device: where to run; by default the fastest available.
    """

    def __init__(self, loaded: LoadedImageGenerator, device: str | None = None):
        self.loaded = loaded
        self.device = select_device(device)
        self.network = loaded.network.to(self.device).eval().requires_grad_(False)
        if isinstance(loaded.encoder, LoadedDualEncoder):
            self.encoder = DualEncoder(loaded.encoder, device)
        else:
            self.encoder = DualEncoder.from_pretrained(loaded.encoder, device=device)
        size, expected = self.encoder.towers.embedding, self.network.settings.decoder.embedding
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
        return self.network.settings.decoder.image_size

    @cached_property
    def fingerprint(self) -> str:
        """A hexadecimal hash of networks and encoder."""
        digest = hashlib.sha256(json.dumps(self.network.settings.to_dict(), sort_keys=True).encode())
        digest.update(self.encoder.fingerprint.encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

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
        expected = self.network.settings.decoder.embedding
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

    @torch.inference_mode()
    def embedding(self, generator: torch.Generator) -> np.ndarray:
        """Return the embedding (E,) to draw."""
        network, device = self.backend.network, self.backend.device
        noise = torch.randn(1, network.settings.prior.embedding, generator=generator)
        found: list[np.ndarray] = []
        for sentence in self.sentences:  # all with the same noise, so that differences are those of the sentences
            image = network.imagine(
                torch.from_numpy(sentence)[None].to(device), noise.to(device), PRIOR_STEPS, PRIOR_GUIDANCE, METHOD
            )
            found.append(image[0].cpu().numpy())
        plus = [*self.pictures, *found[: self.plus]]
        minus = found[self.plus :]
        if len(plus) == 1 and not minus:
            return plus[0]
        return combine(plus, minus, network.images.mean.cpu().numpy())

    @torch.inference_mode()
    def draw(self, seed: int, on_step: OnStep | None = None) -> Image.Image:
        """Draw a picture; the same seed draws the same one."""
        backend = self.backend
        generator = torch.Generator().manual_seed(seed)
        embedding = torch.from_numpy(self.embedding(generator))[None].to(backend.device)
        noise = torch.randn(1, 3, backend.size, backend.size, generator=generator).to(backend.device)

        def report(step: int, predicted: torch.Tensor) -> None:
            if on_step is not None:
                on_step(step, self.steps, lambda: to_pictures(predicted.float().cpu())[0])

        pixels = backend.network.draw(embedding, noise, self.steps, self.guidance, METHOD, report)
        if not torch.isfinite(pixels).all():
            raise NotFinite(f"{backend.name}: the decoder gave NaN or infinity; its weights may be damaged")
        return to_pictures(pixels.float().cpu())[0]
