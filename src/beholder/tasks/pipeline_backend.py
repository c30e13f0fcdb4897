"""Stable Diffusion and SDXL behind `ImageGenerator`: our text towers condition the denoiser of diffusers.

Shapes: T text tokens, D their width, E the pooled vector.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting, ModelError
from beholder.runtime.compiled_unet import compile_unet
from beholder.runtime.device import select_device
from beholder.runtime.precision import Precision
from beholder.tasks.generator_backend import DrawingRequest, GeneratorBackend, OnStep
from beholder.tasks.image_prompts import ImagePromptTower

if TYPE_CHECKING:
    from PIL import Image

    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.weights.diffusers_pipeline import LoadedPipeline
    from beholder.weights.image_prompts import IPAdapter

STEPS = 25
GUIDANCE = {"StableDiffusionPipeline": 7.5, "StableDiffusionXLPipeline": 5.0}  # as in diffusers
MULTIPLE = 8  # of pixels
SAMPLE_PROMPT, SAMPLE_STEPS = "a photo of a dog", 2  # of the drawing on which compiled denoisers are compared


class PromptEmbedding(NamedTuple):
    """A prompt as a denoiser takes it: ``tokens`` (1, T, D), and for SDXL ``pooled`` (1, E)."""

    tokens: Tensor
    pooled: Tensor


class LatentBackend(GeneratorBackend):
    """A loaded pipeline that denoises latents.

    Attributes:
        loaded: the pipeline, with what is known of its folder.
        pipeline: of diffusers.
    """

    loaded: LoadedPipeline
    pipeline: Any
    encoder: DualEncoder | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name

    @abstractmethod
    def prepare(self, request: DrawingRequest) -> LatentDrawer:
        """Check and embed a request."""

    @abstractmethod
    def _sample(self) -> DrawingRequest:
        """Return a request of the default size, on which the compiled denoiser is compared.

        Raises:
            ModelError: the denoiser has inputs that a compiled one does not take.
        """

    def compile(self, folder: Path, precision: Precision) -> None:
        """Let the denoiser run compiled on the CPU, if that is faster within a precision's bound.

        Args:
            folder: of the pipeline.
            precision: whose bound must be kept.

        Raises:
            ModelError: it can't be compiled.
        """
        request = self._sample()
        compile_unet(self.pipeline.unet, folder, precision, lambda: self.prepare(request).denoise(seed=0))


class PipelineBackend(LatentBackend):
    """A loaded pipeline.

    Args:
        loaded: the pipeline.
        device: where to run; by default the fastest available.
        adapter: lets it draw after pictures.
    """

    def __init__(self, loaded: LoadedPipeline, device: str | None = None, adapter: IPAdapter | None = None):
        self.loaded = loaded
        self.device = select_device(device)
        self.tower: ImagePromptTower | None = None
        if adapter is not None:
            add_ip_adapter(loaded, adapter)
            self.tower = ImagePromptTower(adapter.encoder, self.device)
        self.pipeline = loaded.pipeline.to(self.device)
        self.towers = [tower.to(self.device).eval().requires_grad_(False) for tower in loaded.encoders]
        self.is_xl = loaded.kind == "StableDiffusionXLPipeline"

    @cached_property
    def fingerprint(self) -> str:
        """A hexadecimal hash of all tensors and configs."""
        towers = [] if self.tower is None else [self.tower.network]
        return pipeline_fingerprint(self.loaded, *self.towers, *towers, self.pipeline.unet, self.pipeline.vae)

    def truncates(self, text: str) -> bool:
        """Whether a text is longer than what a text tower reads of it."""
        return any(bool(tokenizer([text]).truncated) for tokenizer in self.loaded.tokenizers)

    def prepare(self, request: DrawingRequest) -> PipelineDrawer:
        """Check and embed a request.

        Raises:
            InvalidSetting: there are pictures or embeddings and no adapter, or its size can't be.
        """
        if self.tower is None and (request.text is None or request.like or request.embedding is not None):
            raise InvalidSetting(
                f"{self.name}: this pipeline draws texts only; an IP-Adapter lets it take pictures and embeddings"
            )
        check_size(request)
        return PipelineDrawer(self, request)

    def _sample(self) -> DrawingRequest:
        if self.tower is not None:
            raise ModelError("with an IP-Adapter, the denoiser runs in torch")
        return DrawingRequest(SAMPLE_PROMPT, steps=SAMPLE_STEPS)

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


class LatentDrawer(ABC):
    """A request of a pipeline that denoises latents.

    Args:
        pipeline: of diffusers.
        request: what to draw.
        guidance: where the request has none.

    Attributes:
        conditions: arguments of the pipeline, to which subclasses add the embeddings.
    """

    def __init__(self, pipeline: Any, request: DrawingRequest, guidance: float):
        self.pipeline = pipeline
        self.steps = STEPS if request.steps is None else request.steps
        self.guidance = guidance if request.guidance is None else request.guidance
        self.conditions: dict[str, Any] = {}
        if request.size is not None:
            self.conditions["width"], self.conditions["height"] = request.size

    @torch.inference_mode()
    def draw(self, seed: int, on_step: OnStep | None = None) -> Image.Image:
        """Draw a picture; the same seed draws the same one."""

        def report(_: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(step + 1, self.steps, lambda: self.decode(given["latents"]))
            return given

        return self._run(seed, callback_on_step_end=report)

    @torch.inference_mode()
    def denoise(self, seed: int) -> Tensor:
        """Return the latents that a seed means."""
        return self._run(seed, output_type="latent")

    def _run(self, seed: int, **options: Any) -> Any:
        return self.pipeline(
            **self.conditions,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=torch.Generator().manual_seed(seed),
            **options,
        ).images[0]

    @abstractmethod
    def decode(self, latents: Tensor) -> Image.Image:
        """Return the picture that latents stand for."""


class PipelineDrawer(LatentDrawer):
    """A request whose texts have been embedded."""

    def __init__(self, backend: PipelineBackend, request: DrawingRequest):
        super().__init__(backend.pipeline, request, GUIDANCE[backend.loaded.kind])
        wanted = backend.embed(request.text or "")
        self.conditions["prompt_embeds"] = wanted.tokens
        if backend.is_xl:
            self.conditions["pooled_prompt_embeds"] = wanted.pooled
        if self.guidance > 1:
            unwanted = backend.embed(", ".join(request.minus))
            if backend.is_xl and not request.minus and backend.pipeline.config.force_zeros_for_empty_prompt:
                unwanted = PromptEmbedding(torch.zeros_like(unwanted.tokens), torch.zeros_like(unwanted.pooled))
            self.conditions["negative_prompt_embeds"] = unwanted.tokens
            if backend.is_xl:
                self.conditions["negative_pooled_prompt_embeds"] = unwanted.pooled
        if backend.tower is not None:
            self.conditions["ip_adapter_image_embeds"] = [self._image_prompts(backend.tower, request)]

    def _image_prompts(self, tower: ImagePromptTower, request: DrawingRequest) -> Tensor:
        """Return the embeddings (1, n, E), with guidance after as many zeros (2, n, E)."""
        if request.like or request.embedding is not None:
            prompts = tower.prompts(request)[None]
        else:
            prompts = torch.zeros(1, 1, tower.embedding, device=tower.device)
        return torch.cat([torch.zeros_like(prompts), prompts]) if self.guidance > 1 else prompts

    def decode(self, latents: Tensor) -> Image.Image:
        """Return the picture that latents stand for."""
        vae = self.pipeline.vae
        pixels = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(pixels.detach(), output_type="pil")[0]


def check_size(request: DrawingRequest) -> None:
    """Raise `InvalidSetting` if a side is no multiple of what a latent stands for."""
    if request.size is not None and any(side % MULTIPLE for side in request.size):
        width, height = request.size
        raise InvalidSetting(f"size {width}x{height}: both sides must be multiples of {MULTIPLE}")


def pipeline_fingerprint(loaded: LoadedPipeline, *parts: nn.Module) -> str:
    """Return a hexadecimal hash of the tensors of networks, of the scheduler and of the pipeline's class."""
    settings = [loaded.kind, dict(loaded.pipeline.scheduler.config)]
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for part in parts:
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def add_ip_adapter(loaded: LoadedPipeline, adapter: IPAdapter) -> None:
    """Put the weights of an IP-Adapter into a pipeline.

    Raises:
        ModelError: they are those of another denoiser.
    """
    try:
        loaded.pipeline.load_ip_adapter(
            adapter.tensors, subfolder=None, weight_name=None, image_encoder_folder=None, low_cpu_mem_usage=False
        )
    except (KeyError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{loaded.name}: the IP-Adapter does not fit this pipeline ({reason})") from error
