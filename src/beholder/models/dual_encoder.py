"""The dual encoder: an image tower and a text tower with one embedding space.

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
from beholder.models.efficientnet import EfficientNet, EfficientNetSettings
from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.layers import Head, HeadSettings
from beholder.models.naflex import NaFlexSettings, NaFlexTransformer
from beholder.models.quantized_bert import QuantizedBert, QuantizedBertSettings
from beholder.models.text_tower import TextTransformer, TextTransformerSettings
from beholder.models.vit import VisionSettings, VisionTransformer

ImageSettings = VisionSettings | EfficientNetSettings | EfficientNetLiteSettings | NaFlexSettings
TextSettings = TextTransformerSettings | BertSettings

# Kind of a tower in a settings file: its settings class and its module.
IMAGE_TOWERS: dict[str, tuple[Any, Any]] = {
    "vit": (VisionSettings, VisionTransformer),
    "efficientnet": (EfficientNetSettings, EfficientNet),
    "efficientnet_lite": (EfficientNetLiteSettings, EfficientNetLite),
    "naflex": (NaFlexSettings, NaFlexTransformer),
}
TEXT_TOWERS: dict[str, tuple[Any, Any]] = {
    "transformer": (TextTransformerSettings, TextTransformer),
    "bert": (BertSettings, Bert),
    "quantized_bert": (QuantizedBertSettings, QuantizedBert),
}
LINEAR = HeadSettings("linear")


@dataclass(frozen=True)
class TwoTowersSettings:
    """Architecture of a dual encoder.

    Attributes:
        image, text: the towers.
        embedding: E, size of the shared embedding space.
        image_head, text_head: projections into it.
        logit_bias: whether the logits have a learned bias, as SigLIP's.
    """

    image: ImageSettings
    text: TextSettings
    embedding: int = 512
    image_head: HeadSettings = LINEAR
    text_head: HeadSettings = LINEAR
    logit_bias: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``kind`` names the architecture of each tower."""
        values = asdict(self)
        values["image"] = {"kind": tower_kind(IMAGE_TOWERS, self.image), **saved_tower(self.image)}
        values["text"] = saved_text_tower(self.text)
        for head in ("image_head", "text_head"):
            values[head] = saved_head(getattr(self, head))
        return values

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "TwoTowersSettings":
        """Build the settings from the values that `to_dict` returned.

        Raises:
            InvalidSetting: a key or a tower's kind is missing or unknown.
        """
        values = dict(saved)
        for tower, towers in (("image", IMAGE_TOWERS), ("text", TEXT_TOWERS)):
            values[tower] = read_tower(towers, tower, values)
        for head in ("image_head", "text_head"):
            if head in values:
                values[head] = read_head(values[head])
        return read_settings(cls, values)


# The names of a head's settings in files. They are part of a model's fingerprint, by which albums know their vectors.
SAVED_HEAD = {"input_normalization": "prepare", "part_weights": "shares"}
SAVED_NORMALIZATION = {"none": "nothing", "l2": "unit", "hellinger": "root"}


def saved_tower(settings: Any) -> dict[str, Any]:
    """Return an image tower's settings as they are saved; a vision transformer's name a ``grid``, which none has."""
    values = asdict(settings)
    return {**values, "grid": None} if isinstance(settings, VisionSettings) else values


def current_tower(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a saved tower by today's names.

    Raises:
        InvalidSetting: it is a hybrid vision transformer, whose patches are cells of a convolutional network.
    """
    values = dict(saved)
    if values.pop("grid", None) is not None:
        raise InvalidSetting("hybrid vision transformers (grid) are no longer supported; use a stem")
    return values


def saved_text_tower(settings: TextSettings) -> dict[str, Any]:
    """Return a text tower's settings as they are saved, with its kind."""
    return {"kind": tower_kind(TEXT_TOWERS, settings), **asdict(settings)}


def read_tower(towers: dict[str, tuple[Any, Any]], name: str, saved: Mapping[str, Any]) -> Any:
    """Return the settings of the tower ``name``, of one of the kinds in ``towers``.

    Raises:
        InvalidSetting: a key or the kind is missing or unknown.
    """
    settings = dict(saved.get(name) or {})
    kind = settings.pop("kind", None)
    if kind not in towers:
        raise InvalidSetting(f"the {name} tower's kind {kind!r} is none of {', '.join(towers)}")
    return read_settings(towers[kind][0], current_tower(settings))


def saved_head(settings: HeadSettings) -> dict[str, Any]:
    """Return a head's settings as they are saved."""
    values = asdict(settings)
    saved = {SAVED_HEAD.get(name, name): value for name, value in values.items()}
    return {**saved, "prepare": SAVED_NORMALIZATION[saved["prepare"]]}


def read_head(saved: Mapping[str, Any]) -> HeadSettings:
    """Return the head's settings that `saved_head` returned.

    Raises:
        InvalidSetting: a key is unknown.
    """
    names = {old: new for new, old in SAVED_HEAD.items()}
    values = {names.get(name, name): value for name, value in saved.items()}
    normalizations = {old: new for new, old in SAVED_NORMALIZATION.items()}
    given = values.get("input_normalization", "none")
    return read_settings(HeadSettings, {**values, "input_normalization": normalizations.get(given, given)})


def tower_kind(towers: dict[str, tuple[Any, Any]], settings: object) -> str:
    """Return the kind of a tower by its settings."""
    for kind, (settings_class, _) in towers.items():
        if type(settings) is settings_class:
            return kind
    raise InvalidSetting(f"{type(settings).__name__} are not the settings of any of {', '.join(towers)}")


def read_settings(settings_class: Any, values: Mapping[str, Any]) -> Any:
    """Return settings made from plain values.

    Raises:
        InvalidSetting: a key is missing or unknown.
    """
    unknown = set(values) - {field.name for field in fields(settings_class)}
    if unknown:
        raise InvalidSetting(f"{settings_class.__name__} has no {', '.join(sorted(unknown))}")
    try:
        return settings_class(**values)
    except TypeError as error:
        raise InvalidSetting(f"{settings_class.__name__}: {error}") from None


class TwoTowers(nn.Module):
    """Images and texts → unit vectors in one space, whose cosine measures how well they match."""

    def __init__(self, settings: TwoTowersSettings):
        super().__init__()
        self.settings = settings
        self.image = IMAGE_TOWERS[tower_kind(IMAGE_TOWERS, settings.image)][1](settings.image)
        self.text = TEXT_TOWERS[tower_kind(TEXT_TOWERS, settings.text)][1](settings.text)
        self.image_head = Head(settings.image_head, settings.image.width, settings.embedding)
        self.text_head = Head(settings.text_head, settings.text.width, settings.embedding)
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))  # a logarithm
        self.logit_bias = nn.Parameter(torch.tensor(0.0)) if settings.logit_bias else None

    def embed_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), or marked patches (`beholder.pictures.naflex`) → (B, E), float32, unit length."""
        return self.project_image(self.image(pixels).pooled)

    def project_image(self, pooled: Tensor) -> Tensor:
        """Pooled features of the image tower (B, D) → (B, E), float32, unit length."""
        return F.normalize(self.image_head(pooled).float(), dim=-1)

    def embed_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids (B, T), mask (B, T) false at padding → (B, E), float32, unit length."""
        return F.normalize(self.text_head(self.text(ids, mask).pooled).float(), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Embeddings (B, E) of images and of texts → logits (images, texts): scaled cosines plus bias."""
        logits = self.logit_scale.exp() * images @ texts.T
        return logits if self.logit_bias is None else logits + self.logit_bias
