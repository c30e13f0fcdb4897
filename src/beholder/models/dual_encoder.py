"""The dual encoder: an image tower and a text tower that meet in one space.

Source: CLIP (arXiv:2103.00020, figure 3); the logit bias is SigLIP's (arXiv:2303.15343, algorithm 1).
Shapes: B batch (of images or of texts), T text tokens, E the shared space.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.bert import Bert, BertSettings
from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.layers import Head, HeadSettings
from beholder.models.text_tower import TextTransformer, TextTransformerSettings
from beholder.models.vit import VisionSettings, VisionTransformer

ImageSettings = VisionSettings | EfficientNetLiteSettings
TextSettings = TextTransformerSettings | BertSettings

# What a settings file calls a tower, the class of its settings, and the tower itself.
IMAGE_TOWERS: dict[str, tuple[Any, Any]] = {
    "vit": (VisionSettings, VisionTransformer),
    "efficientnet_lite": (EfficientNetLiteSettings, EfficientNetLite),
}
TEXT_TOWERS: dict[str, tuple[Any, Any]] = {
    "transformer": (TextTransformerSettings, TextTransformer),
    "bert": (BertSettings, Bert),
}
LINEAR = HeadSettings("linear")


@dataclass(frozen=True)
class TwoTowersSettings:
    """Which dual encoder: its towers, the heads that lead into the shared space, and that space's size E.

    ``logit_bias`` says whether the logits have a learned offset, as SigLIP's do.
    """

    image: ImageSettings
    text: TextSettings
    embedding: int = 512
    image_head: HeadSettings = LINEAR
    text_head: HeadSettings = LINEAR
    logit_bias: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; each tower's ``kind`` says which of the towers it is."""
        written = asdict(self)
        written["image"] = {"kind": _kind(IMAGE_TOWERS, self.image), **written["image"]}
        written["text"] = {"kind": _kind(TEXT_TOWERS, self.text), **written["text"]}
        return written

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> "TwoTowersSettings":
        """The way back from ``to_dict``.

        Raises:
            InvalidSetting: a key is unknown or missing, or a tower's kind is.
        """
        values = dict(written)
        for tower, towers in (("image", IMAGE_TOWERS), ("text", TEXT_TOWERS)):
            settings = dict(values.get(tower) or {})
            kind = settings.pop("kind", None)
            if kind not in towers:
                raise InvalidSetting(f"the {tower} tower's kind {kind!r} is none of {', '.join(towers)}")
            if settings.get("grid") is not None:
                settings["grid"] = _build(EfficientNetLiteSettings, settings["grid"])
            values[tower] = _build(towers[kind][0], settings)
        for head in ("image_head", "text_head"):
            if head in values:
                values[head] = _build(HeadSettings, values[head])
        return _build(cls, values)


def _kind(towers: dict[str, tuple[Any, Any]], settings: object) -> str:
    for kind, (settings_class, _) in towers.items():
        if type(settings) is settings_class:
            return kind
    raise InvalidSetting(f"{type(settings).__name__} are the settings of none of {', '.join(towers)}")


def _build(settings_class: Any, values: Mapping[str, Any]) -> Any:
    unknown = set(values) - {field.name for field in fields(settings_class)}
    if unknown:
        raise InvalidSetting(f"{settings_class.__name__} has no {', '.join(sorted(unknown))}")
    try:
        return settings_class(**values)
    except TypeError as error:
        raise InvalidSetting(f"{settings_class.__name__}: {error}") from None


class TwoTowers(nn.Module):
    """Images and texts to unit vectors in one space; their cosine says how well they go together."""

    def __init__(self, settings: TwoTowersSettings):
        super().__init__()
        self.settings = settings
        self.image = IMAGE_TOWERS[_kind(IMAGE_TOWERS, settings.image)][1](settings.image)
        self.text = TEXT_TOWERS[_kind(TEXT_TOWERS, settings.text)][1](settings.text)
        self.image_head = Head(settings.image_head, settings.image.width, settings.embedding)
        self.text_head = Head(settings.text_head, settings.text.width, settings.embedding)
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))  # log of the factor
        self.logit_bias = nn.Parameter(torch.tensor(0.0)) if settings.logit_bias else None

    def embed_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, E), float32, unit length."""
        return F.normalize(self.image_head(self.image(pixels).pooled).float(), dim=-1)

    def embed_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, T), mask (B, T) true where there is no padding → (B, E), float32, unit length."""
        return F.normalize(self.text_head(self.text(ids, mask).pooled).float(), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Embeddings (B, E) of images and of texts → (images, texts), scaled cosines plus bias."""
        logits = self.logit_scale.exp() * images @ texts.T
        return logits if self.logit_bias is None else logits + self.logit_bias
