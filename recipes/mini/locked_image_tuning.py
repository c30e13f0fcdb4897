"""Heads over two frozen towers: contrastive learning where only the way into the shared space is learned.

The space has two parts. The first is linear and solved in closed form (`correlation`): it knows what the captions of
the photographs say. The second begins there and is trained by contrast on the photographs, and by distillation from
the image tower's own classifier, whose thousand class names are sentences, too: it keeps apart what captions never
name. The cosine is the mean of both.

Source: Zhai et al., *LiT: Zero-Shot Transfer with Locked-image text Tuning*.

Shapes: n photographs, V views, C captions each, K classes, P prompts of a class name, D and F the towers' widths,
B batch, E the shared space.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import Head, HeadSettings
from beholder.training.losses import contrastive_loss, distillation_loss, sigmoid_loss
from canonical_correlation import Statistics, correlated_maps, covariance, inverse_root, statistics


@dataclass(frozen=True)
class LockedImageSettings:
    """How the heads are trained; the defaults are `mini`'s, chosen by ``benchmarks/mini_variants.py``.

    Attributes:
        part: dimensions of each of the two parts of the space.
        trained_share: the second part's share of the cosine; 0 leaves the first alone, 1 the second.
        loss: ``contrastive`` is CLIP's symmetric cross-entropy, ``sigmoid`` SigLIP's.
        distillation: weight of the class names beside the captions; 0 leaves them out, of the first part too.
        push: how far a photograph's features are moved towards a random class, so that all classes are seen.
        class_weight: how much the class names weigh in the closed form, beside the captions.
    """

    part: int = 256
    hidden: int = 512
    trained_share: float = 0.6
    loss: Literal["contrastive", "sigmoid"] = "contrastive"
    distillation: float = 1.0
    captions: float = 0.3
    push: float = 14.0
    class_weight: float = 0.6
    image_ridge: float = 3.0
    text_ridge: float = 0.5
    steps: int = 300
    batch: int = 256
    learning_rate: float = 1e-3
    linear_rate: float = 0.1
    weight_decay: float = 0.5
    image_dropout: float = 0.1
    text_dropout: float = 0.1
    averaging: float = 0.98
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in ("contrastive", "sigmoid"):
            raise InvalidSetting(f"loss {self.loss!r} is neither contrastive nor sigmoid")
        if not 0 <= self.trained_share <= 1:
            raise InvalidSetting(f"trained_share {self.trained_share} must be between 0 and 1")


@dataclass(frozen=True)
class LockedImageData:
    """Features of the frozen towers: ``images`` (n, V, D), ``captions`` (n, C, F), ``names`` (K, P, F), and the image
    tower's classifier, ``classifier`` (K, D) and ``classifier_bias`` (K,).
    """

    images: Tensor
    captions: Tensor
    names: Tensor
    classifier: Tensor
    classifier_bias: Tensor

    def subset(self, rows: Tensor) -> "LockedImageData":
        """Only these photographs."""
        return LockedImageData(
            self.images[rows], self.captions[rows], self.names, self.classifier, self.classifier_bias
        )

    def opinion(self, images: Tensor) -> Tensor:
        """The classifier's probabilities (…, K) of features (…, D)."""
        return F.softmax(images @ self.classifier.T + self.classifier_bias, dim=-1)


@dataclass(frozen=True)
class TrainedHeads:
    """The two heads, and the inverse temperature at which the class names were told apart."""

    image: Head
    text: Head
    scale: float


def pushed(data: LockedImageData, count: int, push: Tensor | float) -> Tensor:
    """``count`` features (count, D): random views of random photographs, each moved towards a random class."""
    photographs, views = len(data.images), data.images.shape[1]
    features = data.images[torch.randint(photographs, (count,)), torch.randint(views, (count,))]
    towards = F.normalize(data.classifier[torch.randint(len(data.classifier), (count,))], dim=-1)
    return F.relu(features + push * towards)


def prepared(features: Tensor, prepare: Literal["unit", "root"]) -> Tensor:
    """What a `Head` does to features before its first matrix."""
    return F.normalize(features.clamp(min=0).sqrt() if prepare == "root" else features, dim=-1)


def head_settings(settings: LockedImageSettings) -> tuple[HeadSettings, HeadSettings]:
    """The heads' shapes: linear for pictures, with a small network beside for sentences."""
    shares = (1 - settings.trained_share, settings.trained_share)
    return (
        HeadSettings("linear", bias=True, input_normalization="hellinger", part_weights=shares),
        HeadSettings("mlp", bias=True, hidden=settings.hidden, input_normalization="l2", part_weights=shares),
    )


def caption_moments(images: Tensor, captions: Tensor) -> Statistics:
    """Of pictures (n, V, D) with their captions (n, C, F)."""
    return statistics(prepared(images, "root"), prepared(captions, "unit"))


def pair_moments(data: LockedImageData, settings: LockedImageSettings) -> Statistics:
    """Of the photographs with their captions and, where ``distillation`` asks for them, of the class names."""
    moments = caption_moments(data.images, data.captions)
    if not settings.distillation:
        return moments
    features = pushed(data, 8 * len(data.classifier), settings.push)
    names = prepared(data.names, "unit")
    said = data.opinion(features) @ names.mean(dim=1)  # (count, F)
    of_classes = statistics(prepared(features, "root")[:, None], said[:, None])
    return moments + replace(of_classes, text=covariance(names.flatten(0, 1))) * settings.class_weight


def closed_form(data: LockedImageData, settings: LockedImageSettings) -> tuple[nn.Linear, nn.Linear]:
    """The first part: linear maps of prepared features, D and F to ``part``."""
    moments = pair_moments(data, settings)
    image_map, text_map = correlated_maps(moments, settings.part, settings.image_ridge, settings.text_ridge)
    images, captions = prepared(data.images, "root"), prepared(data.captions, "unit")
    return as_linear(image_map, images.mean(dim=(0, 1))), as_linear(text_map, captions.mean(dim=(0, 1)))


@torch.no_grad()
def caption_map(data: LockedImageData, settings: LockedImageSettings, others: Statistics | None = None) -> nn.Linear:
    """The text features that a caption of a picture is expected to have: a linear map of rooted features, D to F.

    Ridge regression on the same moments as `closed_form`, in a text space whose directions all count (whitened with
    the same ridge), so that what sets pictures apart is not drowned by what all captions share.

    Args:
        data: the photographs.
        settings: the ridges, and how much the class names weigh.
        others: the moments of other pictures with their captions (`caption_moments`), which count as they are.
    """
    moments = pair_moments(data, settings)
    if others is not None:
        moments += others
    whiten = inverse_root(moments.image, settings.image_ridge)
    matrix = whiten @ whiten @ moments.cross @ inverse_root(moments.text, settings.text_ridge)
    layer = nn.Linear(*matrix.shape)
    layer.weight.copy_(matrix.T)
    layer.bias.copy_(-prepared(data.images, "root").mean(dim=(0, 1)) @ matrix)
    return layer


@torch.no_grad()
def as_linear(matrix: Tensor, centre: Tensor) -> nn.Linear:
    """x ↦ (x - centre) · matrix, brought to the size of weights that a fresh layer has."""
    matrix = matrix / (matrix.std() * len(matrix) ** 0.5)
    layer = nn.Linear(*matrix.shape)
    layer.weight.copy_(matrix.T)
    layer.bias.copy_(-centre @ matrix)
    return layer


class TrainedPart(nn.Module):
    """The second part while it is trained: one matrix, and for sentences a small network that starts at nothing."""

    def __init__(self, start: nn.Linear, hidden: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(start.in_features, start.out_features)
        self.linear.load_state_dict(start.state_dict())
        self.dropout = dropout
        self.network = None
        if hidden:
            up, down = nn.Linear(start.in_features, hidden), nn.Linear(hidden, start.out_features)
            nn.init.zeros_(down.weight)
            nn.init.zeros_(down.bias)
            self.network = nn.Sequential(nn.LayerNorm(start.in_features), up, nn.GELU(), nn.Dropout(dropout), down)

    def forward(self, features: Tensor) -> Tensor:
        """Prepared features to unit vectors of the part."""
        features = F.dropout(features, self.dropout, self.training)
        output = self.linear(features)
        return F.normalize(output if self.network is None else output + self.network(features), dim=-1)


def train_heads(
    data: LockedImageData, settings: LockedImageSettings, report: Callable[[int, float], None] = lambda *_: None
) -> TrainedHeads:
    """Trains both parts and joins them.

    Args:
        data: the training photographs' features and the classifier.
        settings: how.
        report: called after every step with its number and the loss.
    """
    torch.manual_seed(settings.seed)
    image_start, text_start = closed_form(data, settings)
    image = TrainedPart(image_start, 0, settings.image_dropout)
    text = TrainedPart(text_start, settings.hidden, settings.text_dropout)
    # Where nothing is trained, nothing is learned of the temperature: it stays where training would start.
    scale = contrast(image, text, data, settings, report) if settings.trained_share else 20.0
    return join(image_start, text_start, image, text, scale, settings)


def contrast(
    image: TrainedPart,
    text: TrainedPart,
    data: LockedImageData,
    settings: LockedImageSettings,
    report: Callable[[int, float], None],
) -> float:
    """Trains the second part in place and gives the learned inverse temperature of the class names."""
    captions, names = prepared(data.captions, "unit"), prepared(data.names, "unit")
    images = prepared(data.images, "root")
    photographs, views, per_photograph = len(images), images.shape[1], captions.shape[1]
    batch = min(settings.batch, photographs)
    caption_scale, name_scale = (nn.Parameter(torch.tensor(math.log(20.0))) for _ in range(2))
    bias = nn.Parameter(torch.tensor(-10.0))

    trained = [*image.named_parameters(prefix="image"), *text.named_parameters(prefix="text")]
    decayed = [p for name, p in trained if p.ndim > 1 and "network" in name]
    linear = [p for name, p in trained if p.ndim > 1 and "network" not in name]
    plain = [p for _, p in trained if p.ndim <= 1] + [caption_scale, name_scale, bias]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay, "factor": 1.0},
            {"params": linear, "weight_decay": 0.0, "factor": settings.linear_rate},  # stays near the closed form
            {"params": plain, "weight_decay": 0.0, "factor": 1.0},
        ],
        betas=(0.9, 0.98),
    )
    averages = [
        torch.optim.swa_utils.AveragedModel(
            part, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.averaging)
        )
        for part in (image, text)
    ]

    image.train()
    text.train()
    for step in range(settings.steps):
        rate = min(1, (step + 1) / 40) * (1 + math.cos(math.pi * step / settings.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate * group["factor"]

        rows = torch.randperm(photographs)[:batch]
        seen = image(images[rows, torch.randint(views, (batch,))])  # (B, part)
        said = text(captions[rows, torch.randint(per_photograph, (batch,))])
        if settings.loss == "contrastive":
            loss = settings.captions * contrastive_loss(seen, said, caption_scale.exp())
        else:
            loss = settings.captions * sigmoid_loss(seen, said, caption_scale.exp(), bias)
        if settings.distillation:
            features = pushed(data, batch, settings.push * torch.rand(batch, 1))
            prompt = int(torch.randint(names.shape[1], ()))
            loss = loss + settings.distillation * distillation_loss(
                image(prepared(features, "root")), text(names[:, prompt]), name_scale.exp(), data.opinion(features)
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for scale in (caption_scale, name_scale):
                scale.clamp_(max=math.log(100))
        for average, part in zip(averages, (image, text), strict=True):
            average.update_parameters(part)
        report(step, loss.item())

    for average, part in zip(averages, (image, text), strict=True):
        part.load_state_dict(average.module.state_dict())
        part.eval()
    return (name_scale if settings.distillation else caption_scale).exp().item()


@torch.no_grad()
def join(
    image_start: nn.Linear,
    text_start: nn.Linear,
    image: TrainedPart,
    text: TrainedPart,
    scale: float,
    settings: LockedImageSettings,
) -> TrainedHeads:
    """Both parts as one head for each tower, as a `TwoTowers` has them."""
    if text.network is None:
        raise TypeError("the text part needs its small network")
    image_shape, text_shape = head_settings(settings)
    image_head = Head(image_shape, image.linear.in_features, 2 * settings.part)
    text_head = Head(text_shape, text.linear.in_features, 2 * settings.part)
    for head, first, second in ((image_head, image_start, image.linear), (text_head, text_start, text.linear)):
        head.linear.weight.copy_(torch.cat([first.weight, second.weight]))
        head.linear.bias.copy_(torch.cat([first.bias, second.bias]))
    norm, up, _, _, down = text.network
    text_head.norm.load_state_dict(norm.state_dict())
    text_head.up.load_state_dict(up.state_dict())
    for name, trained in down.named_parameters():  # the first part is linear: the network adds nothing to it
        text_head.down.get_parameter(name).copy_(torch.cat([torch.zeros_like(trained), trained]))
    return TrainedHeads(image_head.eval(), text_head.eval(), scale)
