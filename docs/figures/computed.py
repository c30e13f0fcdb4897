"""The data behind the figures: the default model, and its outputs for the photographs in `demo/photographs`."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from beholder import DualEncoder, ImageGenerator, VisionLanguageModel
from beholder.models.bridge import image_tokens, token_grid
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_pil_image, to_pixels
from beholder.tasks.attention_maps import AttentionMaps
from beholder.weights.load import load_vision_language

ROOT = Path(__file__).parents[2]
CAPTIONED = "raccoon.jpg"  # the photograph of the figures about the bridge
PHOTOGRAPHS = ROOT / "demo" / "photographs"


class Computed:
    """Each value is computed once, when a figure first needs it."""

    @cached_property
    def encoder(self) -> DualEncoder:
        """The dual encoder."""
        return DualEncoder.from_pretrained("mini")

    @cached_property
    def generator(self) -> ImageGenerator:
        """The image generator."""
        return ImageGenerator.from_pretrained("mini", device="cpu")

    @cached_property
    def vision_language(self) -> VisionLanguageModel:
        """The vision-language model in PyTorch on the CPU, whose intermediate values are accessible."""
        return VisionLanguageModel(load_vision_language("mini"), "cpu")

    @cached_property
    def captions(self) -> dict[str, str]:
        """The human caption of each photograph, by file name."""
        lines = (PHOTOGRAPHS / "captions.jsonl").read_text("utf-8").splitlines()
        return {row["image"]: row["captions"][0] for row in map(json.loads, lines)}

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the model."""
        return self.vision_language.loaded.preprocessing

    def photograph(self, name: str) -> Image.Image:
        """The decoded photograph."""
        return read_picture(PHOTOGRAPHS / name)

    def prepared(self, name: str) -> Image.Image:
        """The model's input, as an image."""
        return to_pil_image(to_pixels(self.photograph(name), self.preprocessing), self.preprocessing)

    def tokens(self, name: str) -> np.ndarray:
        """The frozen image encoder's features of the grid cells: (h · w, Di)."""
        pixels = torch.from_numpy(to_pixels(self.photograph(name), self.preprocessing))[None]
        with torch.inference_mode():
            return image_tokens(self.vision_language.image, pixels)[0][-self.grid[0] * self.grid[1] :].numpy()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image encoder's grid."""
        return token_grid(self.vision_language.image, self.preprocessing.height, self.preprocessing.width)

    def attention_maps(self, name: str) -> AttentionMaps:
        """Attention maps for the words of the generated caption."""
        if name not in self._attention_maps:
            self._attention_maps[name] = self.vision_language.attention_maps(PHOTOGRAPHS / name)
        return self._attention_maps[name]

    def caption(self, name: str) -> str:
        """The generated caption."""
        words = self.attention_maps(name).words
        return "".join(word if word in ".,;:!?" else f" {word}" for word in words).strip()

    @cached_property
    def _attention_maps(self) -> dict[str, AttentionMaps]:
        return {}
