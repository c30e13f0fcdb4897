"""The bridge from a frozen image tower to a frozen language model: a Q-Former with the heads of both training stages.

Stage 1 (arXiv:2301.12597, section 3.2): contrastive learning, matching, generation. Stage 2 (section 3.3): soft visual
prompts.

Shapes: B batch, Q queries, T text tokens, N image tokens, Di their width, E the contrastive embedding space, P global
prompts, Dl the language model's width, V the Q-Former's vocabulary.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.efficientnet_lite import STRIDE
from beholder.models.layers import TowerOutput
from beholder.models.qformer import CrossAttentionCache, QFormer, QFormerSettings
from beholder.models.vit import VisionTransformer


@dataclass(frozen=True)
class BridgeSettings:
    """Architecture of a bridge.

    Attributes:
        embedding: E, size of the contrastive embedding space; 0 for a bridge without the heads of stage 1.
        language_width: Dl, width of the language model; 0 for stage 1 alone.
        image_norm: whether a trained layer norm precedes the Q-Former's cross-attention.
        inference_only: leave out the parts that only training in stage 1 needs: generation head and temperature.
        global_tokens: how many of the first image tokens represent the whole image (a class token, or those of
            `GlobalTokenEncoder`).
        global_prompts: P, soft prompts computed from them directly (`GlobalPrompts`), before those of the queries.
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
            raise InvalidSetting("the heads of stage 1 need a Q-Former with a vocabulary above 0")
        if min(self.global_tokens, self.global_prompts) < 0 or bool(self.global_tokens) != bool(self.global_prompts):
            raise InvalidSetting(
                f"global_tokens {self.global_tokens} and global_prompts {self.global_prompts} "
                "must both be 0, or both above"
            )
        if self.global_prompts and not self.language_width:
            raise InvalidSetting("global_prompts need a language_width above 0")

    @property
    def soft_prompts(self) -> int:
        """Number of soft prompts of an image, P + Q."""
        return self.global_prompts + self.qformer.queries

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BridgeSettings":
        """Build the settings from the values that `to_dict` returned."""
        return cls(**{**values, "qformer": QFormerSettings(**values["qformer"])})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class GenerationHead(nn.Module):
    """BERT's language modeling head: (B, T, D) → logits (B, T, V), tied to the word embeddings."""

    def __init__(self, settings: QFormerSettings):
        super().__init__()
        self.dense = nn.Linear(settings.width, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.norm_eps)
        self.bias = nn.Parameter(torch.zeros(settings.vocabulary))

    def forward(self, text: Tensor, word_embeddings: Tensor) -> Tensor:
        """Text tokens (B, T, D), ``word_embeddings`` (V, D) → (B, T, V)."""
        return F.linear(self.norm(F.gelu(self.dense(text))), word_embeddings, self.bias)


class GlobalPrompts(nn.Module):
    """Map the tokens that represent the whole image to soft prompts by an MLP: (B, N, Di) → (B, P, Dl).

    Queries first have to learn where to attend. This path does not, and learns many times faster from few images.

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
        summed = self.norm(image[:, : self.tokens].sum(1))
        return self.down(self.dropout(F.gelu(self.up(summed)))).unflatten(-1, (self.prompts, -1))


class Bridge(nn.Module):
    """Q-Former, heads of stage 1 and projection to the language model, as far as the settings ask for them."""

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
        """Normalize image tokens for the Q-Former: (B, N, Di) → (B, N, Di)."""
        return image if self.image_norm is None else self.image_norm(image)

    def cross_attention_cache(self, image: Tensor, kept: Tensor | None = None) -> CrossAttentionCache:
        """Return what the Q-Former's cross-attention needs of image tokens (B, N, Di), for several passes over them.

        ``kept`` (N,) are their indices among all tokens of an image if some were dropped.
        """
        return self.qformer.cross_attention_cache(self.normalize_image(image), kept)

    def queries(self, image: Tensor | CrossAttentionCache) -> Tensor:
        """Return the Q-Former's query outputs for image tokens: (B, N, Di) → (B, Q, D)."""
        return self.qformer(self._source(image)).queries

    def soft_prompts(self, image: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return an image's soft prompts for the language model: (B, N, Di) → (B, P + Q, Dl), global prompts first.

        ``kept`` (N,) are the tokens' indices among all of an image if some were dropped.
        """
        return self.to_prompts(image, self.queries(self.cross_attention_cache(image, kept)))

    def to_prompts(self, image: Tensor, queries: Tensor) -> Tensor:
        """Return the soft prompts for image tokens and query outputs (B, Q, D): (B, P + Q, Dl)."""
        prompts = self._part(self.to_language, "no projection to a language model")(queries)
        return prompts if self.global_prompts is None else torch.cat([self.global_prompts(image), prompts], 1)

    def image_features(self, image: Tensor | CrossAttentionCache) -> Tensor:
        """Return the queries' contrastive embeddings: (B, N, Di) → (B, Q, E), unit length."""
        return F.normalize(self._part(self.image_head, "no heads of stage 1")(self.queries(image)), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return a text's contrastive embedding, from its first token: (B, T) → (B, E), unit length."""
        text = self.qformer(None, ids, mask, "unimodal").text
        return F.normalize(self._part(self.text_head, "no heads of stage 1")(text[:, 0]), dim=-1)

    def match(self, image: Tensor | CrossAttentionCache, ids: Tensor, mask: Tensor) -> Tensor:
        """Return image-text matching logits (B, 2), no match and match, averaged over the queries."""
        queries = self.qformer(self._source(image), ids, mask, "bimodal").queries
        return self._part(self.matching_head, "no heads of stage 1")(queries).mean(1)

    def generation_logits(self, image: Tensor | CrossAttentionCache, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of the token after each token of the text: (B, T, V)."""
        text = self.qformer(self._source(image), ids, mask, "multimodal_causal").text
        word_embeddings = self._part(self.qformer.word_embeddings, "no word embeddings").weight
        return self._part(self.language_head, "no heads of stage 1")(text, word_embeddings)

    def _source(self, image: Tensor | CrossAttentionCache) -> Tensor | CrossAttentionCache:
        return self.normalize_image(image) if isinstance(image, Tensor) else image

    @staticmethod
    def _part(part: nn.Module | None, missing: str) -> Any:
        if part is None:
            raise InvalidSetting(f"this bridge has {missing}; see its settings")
        return part


def image_tokens(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return the image tokens that a bridge reads: pixels (B, 3, H, W) → (B, N, Di).

    They are a vision transformer's tokens, or the cells of a convolutional network's feature map, row by row.
    """
    output = tower(pixels)
    return output.tokens if isinstance(output, TowerOutput) else output.grid.flatten(2).transpose(1, 2)


def token_grid(tower: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of `image_tokens`, without their prefix, for an image of this size in pixels."""
    if isinstance(tower, VisionTransformer):
        return tower.settings.patch_grid_of(height, width)
    return -(-height // STRIDE), -(-width // STRIDE)
