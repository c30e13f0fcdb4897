"""The bridge between a frozen picture and a frozen language model: a Q-Former with the heads of both stages.

Stage 1 (arXiv:2301.12597, section 3.2): contrast, matching, generation. Stage 2 (section 3.3): soft visual prompts.

Shapes: B batch, Q queries, T text tokens, N picture tokens, Di their width, E the space of contrast, P soft prompts of
the whole picture, Dl the language model's width, V the Q-Former's vocabulary.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import TowerOutput
from beholder.models.qformer import QFormer, QFormerSettings
from beholder.models.vit import GRID_STRIDE, VisionTransformer


@dataclass(frozen=True)
class BridgeSettings:
    """Which bridge.

    Attributes:
        embedding: dimensions of the space of contrast; 0 for a bridge without the heads of stage 1.
        language_width: width of the language model behind; 0 for stage 1 alone.
        image_norm: a trained layer norm on the frozen picture tokens.
        inference_only: without what stage 1 needs for training alone, the generation head and the temperature.
        global_tokens: how many of the first picture tokens stand for the whole picture (a class token, or those of
            `GlobalTokenEncoder`).
        global_prompts: soft prompts made of these directly, in front of the queries'; 0 for none (`GlobalPrompts`).
    """

    qformer: QFormerSettings
    embedding: int = 256
    language_width: int = 0
    image_norm: bool = False
    inference_only: bool = False
    global_tokens: int = 0
    global_prompts: int = 0

    def __post_init__(self) -> None:
        if self.embedding and not self.qformer.vocabulary:
            raise InvalidSetting("the heads of stage 1 need a Q-Former that reads text: give it a vocabulary")
        if min(self.global_tokens, self.global_prompts) < 0 or bool(self.global_tokens) != bool(self.global_prompts):
            raise InvalidSetting(
                f"global_tokens {self.global_tokens} and global_prompts {self.global_prompts} "
                "must both be 0, or both above"
            )
        if self.global_prompts and not self.language_width:
            raise InvalidSetting("global_prompts are for a language model: they need a language_width above 0")

    @property
    def soft_prompts(self) -> int:
        """How many a picture has."""
        return self.global_prompts + self.qformer.queries

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BridgeSettings":
        """From what ``to_dict`` gave."""
        return cls(**{**values, "qformer": QFormerSettings(**values["qformer"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a settings file."""
        return asdict(self)


class GenerationHead(nn.Module):
    """Text tokens (B, T, D) to logits (B, T, V), as BERT's; the decoder is the table of word embeddings."""

    def __init__(self, settings: QFormerSettings):
        super().__init__()
        self.dense = nn.Linear(settings.width, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.bias = nn.Parameter(torch.zeros(settings.vocabulary))

    def forward(self, text: Tensor, word_embeddings: Tensor) -> Tensor:
        """``word_embeddings``: the table (V, D)."""
        return F.linear(self.norm(F.gelu(self.dense(text))), word_embeddings, self.bias)


class GlobalPrompts(nn.Module):
    """The tokens that stand for the whole picture to soft prompts, by one hidden layer: (B, N, Di) → (B, P, Dl).

    Queries have to learn where to look before they say anything; this path knows it, and on few pictures learns many
    times faster.

    Source: the mapping network of Mokady et al., *ClipCap* (arXiv:2111.09734), section 3.
    """

    def __init__(self, settings: BridgeSettings):
        super().__init__()
        self.tokens, self.prompts = settings.global_tokens, settings.global_prompts
        qformer = settings.qformer
        self.norm = nn.LayerNorm(qformer.image_width)
        self.up = nn.Linear(qformer.image_width, qformer.width)
        self.dropout = nn.Dropout(qformer.dropout)
        self.down = nn.Linear(qformer.width, settings.global_prompts * settings.language_width)

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        whole = self.norm(image[:, : self.tokens].sum(1))
        return self.down(self.dropout(F.gelu(self.up(whole)))).unflatten(-1, (self.prompts, -1))


class Bridge(nn.Module):
    """Q-Former, stage 1's heads and the layers to the language model, each where the settings ask for it."""

    def __init__(self, settings: BridgeSettings):
        super().__init__()
        self.settings = settings
        width = settings.qformer.width
        self.image_norm = nn.LayerNorm(settings.qformer.image_width) if settings.image_norm else None
        self.qformer = QFormer(settings.qformer)
        stage1, stage2 = bool(settings.embedding), bool(settings.language_width)
        self.image_head = nn.Linear(width, settings.embedding) if stage1 else None
        self.text_head = nn.Linear(width, settings.embedding) if stage1 else None
        trained = stage1 and not settings.inference_only
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log()) if trained else None
        self.matching_head = nn.Linear(width, 2) if stage1 else None
        self.language_head = GenerationHead(settings.qformer) if trained else None
        self.to_language = nn.Linear(width, settings.language_width) if stage2 else None
        self.global_prompts = GlobalPrompts(settings) if settings.global_prompts else None

    def normalize_image(self, image: Tensor) -> Tensor:
        """Picture tokens (B, N, Di) as the Q-Former looks at them."""
        return image if self.image_norm is None else self.image_norm(image)

    def queries(self, image: Tensor) -> Tensor:
        """What the queries saw in the picture: (B, Q, D)."""
        return self.qformer(self.normalize_image(image)).queries

    def soft_prompts(self, image: Tensor) -> Tensor:
        """The picture in the language model's own space: (B, P + Q, Dl), the queries' prompts last."""
        return self.to_prompts(image, self.queries(image))

    def to_prompts(self, image: Tensor, queries: Tensor) -> Tensor:
        """The soft prompts of a picture that the queries have seen already (B, Q, D): (B, P + Q, Dl)."""
        prompts = self._part(self.to_language, "no layer to a language model")(queries)
        return prompts if self.global_prompts is None else torch.cat([self.global_prompts(image), prompts], 1)

    def image_features(self, image: Tensor) -> Tensor:
        """(B, Q, E), each of unit length."""
        return F.normalize(self._part(self.image_head, "no heads of stage 1")(self.queries(image)), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, E), of unit length, from the text's first token, which stands for the whole."""
        text = self.qformer(None, ids, mask, "unimodal").text
        return F.normalize(self._part(self.text_head, "no heads of stage 1")(text[:, 0]), dim=-1)

    def match(self, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, 2), "does not fit" and "fits", the mean over the queries."""
        queries = self.qformer(self.normalize_image(image), ids, mask, "bimodal").queries
        return self._part(self.matching_head, "no heads of stage 1")(queries).mean(1)

    def generation_logits(self, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """For each token of the text the logits of the next one: (B, T, V)."""
        text = self.qformer(self.normalize_image(image), ids, mask, "multimodal_causal").text
        word_embeddings = self._part(self.qformer.word_embeddings, "no words to write with").weight
        return self._part(self.language_head, "no heads of stage 1")(text, word_embeddings)

    @staticmethod
    def _part(part: nn.Module | None, missing: str) -> Any:
        if part is None:
            raise InvalidSetting(f"this bridge has {missing}; its settings leave it out")
        return part


def image_tokens(tower: nn.Module, pixels: Tensor) -> Tensor:
    """What a bridge looks at: a vision transformer's tokens, or a convolutional network's grid, row by row.

    Pixels (B, 3, H, W) → (B, N, Di).
    """
    seen = tower(pixels)
    return seen.tokens if isinstance(seen, TowerOutput) else seen.grid.flatten(2).transpose(1, 2)


def token_grid(tower: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of ``image_tokens`` for a picture of ``height`` by ``width`` pixels, without their prefix."""
    if isinstance(tower, VisionTransformer):
        patch = tower.settings.patch_size
        if tower.grid is None:
            return height // patch, width // patch
    else:
        patch = 1
    return -(-height // GRID_STRIDE) // patch, -(-width // GRID_STRIDE) // patch
