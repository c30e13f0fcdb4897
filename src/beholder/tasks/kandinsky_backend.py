"""Kandinsky 2.2's decoder behind `ImageGenerator`: it draws pictures' embeddings, and no texts."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from beholder.errors import InvalidSetting
from beholder.runtime.device import select_device
from beholder.tasks.generator_backend import DrawingRequest
from beholder.tasks.image_prompts import ImagePromptTower
from beholder.tasks.pipeline_backend import SAMPLE_STEPS, LatentBackend, LatentDrawer, check_size, pipeline_fingerprint
from beholder.weights.image_prompts import LoadedImagePromptEncoder

if TYPE_CHECKING:
    from beholder.weights.diffusers_pipeline import LoadedPipeline

GUIDANCE = 4.0  # as in diffusers


class KandinskyBackend(LatentBackend):
    """A loaded decoder.

    Args:
        loaded: the pipeline.
        encoder: the image tower for whose embeddings the decoder was trained.
        device: where to run; by default the fastest available.
    """

    def __init__(self, loaded: LoadedPipeline, encoder: LoadedImagePromptEncoder, device: str | None = None):
        self.loaded = loaded
        self.device = select_device(device)
        self.pipeline = loaded.pipeline.to(self.device)
        self.tower = ImagePromptTower(encoder, self.device)

    @cached_property
    def fingerprint(self) -> str:
        """A hexadecimal hash of all tensors and configs."""
        return pipeline_fingerprint(self.loaded, self.tower.network, self.pipeline.unet, self.pipeline.movq)

    def truncates(self, text: str) -> bool:
        """Whether a text is longer than what the model reads of it."""
        return False

    def prepare(self, request: DrawingRequest) -> KandinskyDrawer:
        """Check and embed a request.

        Raises:
            InvalidSetting: there are texts, or its size can't be.
        """
        if request.text is not None or request.minus:
            raise InvalidSetting(f"{self.name}: this pipeline draws pictures and embeddings (like), and no texts")
        check_size(request)
        return KandinskyDrawer(self, request)

    def _sample(self) -> DrawingRequest:
        side = self.pipeline.unet.config.sample_size * self.pipeline.movq_scale_factor
        picture = Image.radial_gradient("L").convert("RGB")
        return DrawingRequest(like=[picture], steps=SAMPLE_STEPS, size=(side, side))


class KandinskyDrawer(LatentDrawer):
    """A request whose pictures have been embedded; several are drawn as their mean."""

    def __init__(self, backend: KandinskyBackend, request: DrawingRequest):
        super().__init__(backend.pipeline, request, GUIDANCE)
        self.conditions["image_embeds"] = backend.tower.prompts(request).mean(0, keepdim=True)
        self.conditions["negative_image_embeds"] = backend.tower.embed_zeros()

    def decode(self, latents: Tensor) -> Image.Image:
        """Return the picture that latents stand for."""
        from beholder.pictures.drawn import to_pictures

        pixels = self.pipeline.movq.decode(latents, force_not_quantize=True)["sample"]
        return to_pictures(pixels.detach().float().cpu())[0]
