"""What the figures are drawn from: the default model, and what it makes of the photographs in `demo/photographs`."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from beholder import DualEncoder, VisionLanguageModel
from beholder.models.bridge import picture_grid, picture_tokens
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_picture, to_pixels
from beholder.tasks.vision_language import AttentionMaps
from beholder.weights.vision_language import load_vision_language

ROOT = Path(__file__).parents[2]
WRITTEN_ABOUT = "raccoon.jpg"  # the photograph of the figures about the bridge
PHOTOGRAPHS = ROOT / "demo" / "photographs"


class Seen:
    """Each thing is computed once, when the first figure asks for it."""

    @cached_property
    def encoder(self) -> DualEncoder:
        """The dual encoder."""
        return DualEncoder.from_pretrained("mini")

    @cached_property
    def writer(self) -> VisionLanguageModel:
        """The vision-language model in PyTorch, whose parts can be looked into, on the CPU."""
        return VisionLanguageModel(load_vision_language("mini"), "cpu")

    @cached_property
    def captions(self) -> dict[str, str]:
        """The sentence that a person wrote for each photograph, by the photograph's name."""
        lines = (PHOTOGRAPHS / "captions.jsonl").read_text("utf-8").splitlines()
        return {row["image"]: row["captions"][0] for row in map(json.loads, lines)}

    @property
    def preprocessing(self) -> Preprocessing:
        """How a photograph becomes pixels."""
        return self.writer.loaded.preprocessing

    def photograph(self, name: str) -> Image.Image:
        """As it lies on disk."""
        return read_picture(PHOTOGRAPHS / name)

    def prepared(self, name: str) -> Image.Image:
        """As the model gets it."""
        return to_picture(to_pixels(self.photograph(name), self.preprocessing), self.preprocessing)

    def tokens(self, name: str) -> np.ndarray:
        """What the frozen picture tower makes of its cells: (h · w, Di)."""
        pixels = torch.from_numpy(to_pixels(self.photograph(name), self.preprocessing))[None]
        with torch.inference_mode():
            return picture_tokens(self.writer.image, pixels)[0][-self.grid[0] * self.grid[1] :].numpy()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the picture tower's tokens."""
        return picture_grid(self.writer.image, self.preprocessing.height, self.preprocessing.width)

    def attention_maps(self, name: str) -> AttentionMaps:
        """Where the bridge looked for each word of the caption that it writes."""
        if name not in self._looked:
            self._looked[name] = self.writer.attention_maps(PHOTOGRAPHS / name)
        return self._looked[name]

    def caption(self, name: str) -> str:
        """The caption that the model writes."""
        words = self.attention_maps(name).words
        return "".join(word if word in ".,;:!?" else f" {word}" for word in words).strip()

    @cached_property
    def _looked(self) -> dict[str, AttentionMaps]:
        return {}
