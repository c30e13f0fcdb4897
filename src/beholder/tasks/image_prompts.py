"""Pictures and embeddings as prompts of a pipeline. Shapes: E the projection of its image tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from beholder.errors import InvalidSetting
from beholder.tasks.generator_backend import DrawingRequest
from beholder.tasks.pictures import preprocess_image
from beholder.weights.image_prompts import LoadedImagePromptEncoder

if TYPE_CHECKING:
    from PIL.Image import Image

UNIT_LENGTH = 1e-3  # how far the length of an embedding is from 1 that was brought to it


class ImagePromptTower:
    """A loaded image tower on its device.

    Args:
        loaded: the tower.
        device: where to run.
    """

    def __init__(self, loaded: LoadedImagePromptEncoder, device: torch.device):
        self.preprocessing = loaded.preprocessing
        self.device = device
        self.network = loaded.network.to(device).eval().requires_grad_(False)

    @property
    def embedding(self) -> int:
        """E."""
        return self.network.settings.projection

    @torch.inference_mode()
    def embed(self, pictures: list[Image]) -> Tensor:
        """Return the embeddings (n, E) of pictures, which are not brought to unit length."""
        named = ((f"picture {number}", picture) for number, picture in enumerate(pictures, 1))
        pixels = [preprocess_image(picture, self.preprocessing, name=name).pixels for name, picture in named]
        return self.network(torch.from_numpy(np.stack(pixels)).to(self.device))

    @torch.inference_mode()
    def embed_zeros(self) -> Tensor:
        """Return the embedding (1, E) of pixels that are zero, which Kandinsky takes for no picture."""
        shape = 1, 3, self.preprocessing.height, self.preprocessing.width
        return self.network(torch.zeros(shape, device=self.device))

    def prompts(self, request: DrawingRequest) -> Tensor:
        """Return the embeddings (n, E) of a request's pictures, and the one that it has itself.

        Raises:
            InvalidSetting: its embedding is of another size, not finite, or of unit length.
        """
        found = [self.embed(list(request.like))] if request.like else []
        given = request.embedding
        if given is not None:
            self.check(given)
            found.append(torch.from_numpy(np.asarray(given, np.float32))[None].to(self.device))
        return torch.cat(found)

    def check(self, embedding: np.ndarray) -> None:
        """Raise `InvalidSetting` if an embedding can't be one of this tower's."""
        if embedding.shape != (self.embedding,) or not np.isfinite(embedding).all() or not embedding.any():
            raise InvalidSetting(f"embedding must be an array of {self.embedding} finite numbers, not all zero")
        if abs(float(np.linalg.norm(embedding)) - 1) < UNIT_LENGTH:
            raise InvalidSetting(
                "embedding has unit length, and this pipeline draws embeddings as its image tower gives them: pass "
                "them without normalization, or the picture itself (like)"
            )
