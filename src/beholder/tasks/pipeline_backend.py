"""Stable Diffusion and SDXL behind `ImageGenerator`: our text towers condition the denoiser of diffusers.

Shapes: T text tokens, D their width, E the pooled vector.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from beholder.errors import InvalidSetting
from beholder.runtime.device import select_device
from beholder.tasks.generator_backend import DrawingRequest, OnStep

if TYPE_CHECKING:
    from PIL import Image

    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.weights.diffusers_pipeline import LoadedPipeline

STEPS = 25
GUIDANCE = {"StableDiffusionPipeline": 7.5, "StableDiffusionXLPipeline": 5.0}  # as in diffusers
MULTIPLE = 8  # of pixels


class PromptEmbedding(NamedTuple):
    """A prompt as a denoiser takes it: ``tokens`` (1, T, D), and for SDXL ``pooled`` (1, E)."""

    tokens: Tensor
    pooled: Tensor


class PipelineBackend:
    """A loaded pipeline.

    Args:
        loaded: the pipeline.
        device: where to run; by default the fastest available.
    """

    encoder: DualEncoder | None = None

    def __init__(self, loaded: LoadedPipeline, device: str | None = None):
        self.loaded = loaded
        self.device = select_device(device)
        self.pipeline = loaded.pipeline.to(self.device)
        self.towers = [tower.to(self.device).eval().requires_grad_(False) for tower in loaded.encoders]
        self.is_xl = loaded.kind == "StableDiffusionXLPipeline"

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name

    @cached_property
    def fingerprint(self) -> str:
        """A hexadecimal hash of all tensors and configs."""
        pipeline = self.pipeline
        digest = hashlib.sha256(json.dumps([self.loaded.kind, dict(pipeline.scheduler.config)], default=str).encode())
        for part in (*self.towers, pipeline.unet, pipeline.vae):
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def truncates(self, text: str) -> bool:
        """Whether a text is longer than what a text tower reads of it."""
        return any(bool(tokenizer([text]).truncated) for tokenizer in self.loaded.tokenizers)

    def prepare(self, request: DrawingRequest) -> PipelineDrawer:
        """Check and embed a request.

        Raises:
            InvalidSetting: it is not of words alone, or its size can't be.
        """
        if request.text is None or request.like or request.embedding is not None:
            raise InvalidSetting(
                f"{self.name}: this pipeline draws texts only; it takes neither pictures nor embeddings"
            )
        if request.size is not None and any(side % MULTIPLE for side in request.size):
            width, height = request.size
            raise InvalidSetting(f"size {width}x{height}: both sides must be multiples of {MULTIPLE}")
        return PipelineDrawer(self, request)

    @torch.inference_mode()
    def embed(self, prompt: str) -> PromptEmbedding:
        """Embed a prompt, as the pipeline itself would, but that an exclamation mark is one.

        SDXL's second tokenizer pads with it, and diffusers takes those of a prompt for padding.

        Warns:
            TruncationWarning: the prompt is too long.
        """
        tokens, pooled = [], []
        for tower, tokenizer in zip(self.towers, self.loaded.tokenizers, strict=True):
            ids = torch.from_numpy(tokenizer([prompt]).ids).to(self.device)
            each, vector = tower(ids, penultimate=self.is_xl)
            tokens.append(each)
            pooled.append(vector)
        return PromptEmbedding(torch.cat(tokens, dim=-1), pooled[-1])


class PipelineDrawer:
    """A request whose texts have been embedded."""

    def __init__(self, backend: PipelineBackend, request: DrawingRequest):
        self.backend = backend
        self.steps = STEPS if request.steps is None else request.steps
        self.guidance = GUIDANCE[backend.loaded.kind] if request.guidance is None else request.guidance
        wanted = backend.embed(request.text or "")
        self.conditions: dict[str, Any] = {"prompt_embeds": wanted.tokens}
        if backend.is_xl:
            self.conditions["pooled_prompt_embeds"] = wanted.pooled
        if self.guidance > 1:
            unwanted = backend.embed(", ".join(request.minus))
            if backend.is_xl and not request.minus and backend.pipeline.config.force_zeros_for_empty_prompt:
                unwanted = PromptEmbedding(torch.zeros_like(unwanted.tokens), torch.zeros_like(unwanted.pooled))
            self.conditions["negative_prompt_embeds"] = unwanted.tokens
            if backend.is_xl:
                self.conditions["negative_pooled_prompt_embeds"] = unwanted.pooled
        if request.size is not None:
            self.conditions["width"], self.conditions["height"] = request.size

    @torch.inference_mode()
    def draw(self, seed: int, on_step: OnStep | None = None) -> Image.Image:
        """Draw a picture; the same seed draws the same one."""
        pipeline = self.backend.pipeline

        def report(_: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(step + 1, self.steps, lambda: self._decode(given["latents"]))
            return given

        return pipeline(
            **self.conditions,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=report,
        ).images[0]

    def _decode(self, latents: Tensor) -> Image.Image:
        vae = self.backend.pipeline.vae
        pixels = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return self.backend.pipeline.image_processor.postprocess(pixels.detach(), output_type="pil")[0]
