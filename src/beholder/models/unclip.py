"""unCLIP: a prior that turns a sentence's embedding into a picture's, and a decoder that draws it (arXiv:2204.06125).

Shapes: B batch, S side of a picture, E the shared space.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerSettings
from beholder.models.dual_encoder import read_settings
from beholder.models.prior import Prior, PriorSettings
from beholder.models.rectified_flow import GuidedVelocity, Method, integrate

OnStep = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class UnclipSettings:
    """Architecture of decoder and prior, which share a space."""

    decoder: DiffusionTransformerSettings
    prior: PriorSettings

    def __post_init__(self) -> None:
        if self.decoder.embedding != self.prior.embedding:
            raise InvalidSetting(
                f"the decoder takes embeddings of {self.decoder.embedding} numbers and the prior makes some of "
                f"{self.prior.embedding}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "UnclipSettings":
        """Build the settings from the values that `to_dict` returned.

        Raises:
            InvalidSetting: a key is missing or unknown.
        """
        parts = {"decoder": DiffusionTransformerSettings, "prior": PriorSettings}
        return read_settings(cls, {name: read_settings(parts.get(name), saved[name]) for name in saved})


class Standardization(nn.Module):
    """Centers and scales embeddings, whose entries then vary about as much as noise does."""

    def __init__(self, embedding: int):
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(embedding))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Take mean and scale of embeddings (n, E)."""
        self.mean.copy_(embeddings.mean(0))
        self.scale.copy_((embeddings - embeddings.mean(0)).square().mean().sqrt().clamp(min=1e-6))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, E) → (B, E)."""
        return (embeddings - self.mean) / self.scale

    def inverse(self, standardized: Tensor) -> Tensor:
        """(B, E) → (B, E)."""
        return standardized * self.scale + self.mean


class Unclip(nn.Module):
    """Embeddings → pictures, and sentences' embeddings → pictures' embeddings."""

    def __init__(self, settings: UnclipSettings):
        super().__init__()
        self.settings = settings
        self.decoder = DiffusionTransformer(settings.decoder)
        self.prior = Prior(settings.prior)
        self.images = Standardization(settings.decoder.embedding)
        self.sentences = Standardization(settings.decoder.embedding)

    def draw(
        self,
        embeddings: Tensor,
        noise: Tensor,
        steps: int,
        guidance: float,
        method: Method = "euler",
        on_step: OnStep = lambda step, sample: None,
    ) -> Tensor:
        """Draw pictures.

        Args:
            embeddings: (B, E), of unit length.
            noise: (B, 3, S, S).
            steps: of the flow.
            guidance: scale of classifier-free guidance; 1 is without.
            method: of the integration.
            on_step: called with the number of each step and the predicted pictures (B, 3, S, S).

        Returns:
            (B, 3, S, S), -1 to 1.
        """
        as_array = partial(torch.as_tensor, device=noise.device)
        field = GuidedVelocity(self.decoder, self.images(embeddings), guidance, clip=True, as_array=as_array)
        drawn = integrate(field, noise, steps, method, lambda step, _: on_step(step, field.predicted))
        return drawn.clamp(-1, 1)

    def imagine(
        self, sentences: Tensor, noise: Tensor, steps: int, guidance: float, method: Method = "euler"
    ) -> Tensor:
        """Return the embeddings (B, E) of pictures for sentences' embeddings (B, E); both of unit length.

        Args:
            sentences: (B, E).
            noise: (B, E).
            steps: of the flow.
            guidance: scale of classifier-free guidance; 1 is without.
            method: of the integration.
        """
        as_array = partial(torch.as_tensor, device=noise.device)
        field = GuidedVelocity(self.prior, self.sentences(sentences), guidance, clip=False, as_array=as_array)
        found = integrate(field, noise, steps, method)
        return nn.functional.normalize(self.images.inverse(found), dim=-1)
