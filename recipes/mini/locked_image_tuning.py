"""Locked-image tuning: contrastive training of projection heads on top of two frozen encoders.

The shared space has two parts. The first is linear and solved in closed form on the captions (`canonical_correlation`).
The second is initialized from it and trained with the contrastive loss on captions, and by distillation from the image
encoder's ImageNet classifier, whose class names serve as texts, so that it separates classes that no caption mentions.
The cosine similarity is the weighted mean of the two parts' cosines.

Source: Zhai et al., *LiT: Zero-Shot Transfer with Locked-image text Tuning*.

Shapes: n photographs, V views, C captions each, K classes, P prompts of a class name, D and F the encoders' widths,
B batch, E the shared space.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.layers import Head, HeadSettings
from beholder.training.losses import LOSSES, LossName, distillation_loss
from beholder.training.optimization import ExponentialMovingAverage, adamw, cosine_schedule, set_learning_rate
from canonical_correlation import Statistics, canonical_maps, covariance, inverse_square_root, statistics


@dataclass(frozen=True)
class LockedImageConfig:
    """Training configuration of the heads; the defaults are `mini`'s, chosen with ``benchmarks/mini_variants.py``.

    Attributes:
        part: Dimensions of each of the two parts of the space.
        hidden: Hidden units of the text head's MLP.
        image_hidden: The same for the image head, which is linear with 0.
        trained_share: Weight of the trained part in the cosine; with 0 only the closed form is used, with 1 only the
            trained part.
        loss: ``contrastive`` for CLIP's symmetric cross-entropy, ``sigmoid`` for SigLIP's loss.
        distillation_weight: Weight of the distillation loss; 0 also removes the class names from the closed form.
        caption_weight: Weight of the contrastive loss on captions.
        class_shift: Distance by which image features are shifted towards a random class, so that all classes occur.
        class_weight: Weight of the class names relative to the captions in the closed form.
        warmup: Share of the steps in which the learning rate rises.
        linear_lr_scale: Learning rate of the linear layers relative to the others, so that they stay near the closed
            form.
        ema_decay: Decay of the exponential moving average of the weights, which is the result.
        label_weight: Weight of the cross-entropy over the label sets.
        label_batch: Labeled photographs of a step.
    """

    part: int = 256
    hidden: int = 768
    image_hidden: int = 0
    trained_share: float = 0.9
    loss: LossName = "contrastive"
    distillation_weight: float = 2.0
    caption_weight: float = 1.0
    class_shift: float = 14.0
    class_weight: float = 0.6
    image_ridge: float = 3.0
    text_ridge: float = 0.5
    steps: int = 600
    batch: int = 512
    learning_rate: float = 1e-3
    warmup: float = 0.06
    linear_lr_scale: float = 0.1
    weight_decay: float = 0.1
    image_dropout: float = 0.1
    text_dropout: float = 0.1
    ema_decay: float = 0.985
    label_weight: float = 1.0
    label_batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InvalidSetting(f"loss {self.loss!r} must be one of {', '.join(get_args(LossName))}")
        if not 0 <= self.trained_share <= 1:
            raise InvalidSetting(f"trained_share {self.trained_share} must be between 0 and 1")


@dataclass(frozen=True)
class LabelSet:
    """Photographs labeled with one of L classes: ``images`` (m, V, D), ``classes`` (m,) and ``names`` (L, P, F)."""

    images: Tensor
    classes: Tensor
    names: Tensor


@dataclass(frozen=True)
class LockedImageData:
    """Features of the frozen encoders: ``images`` (n, V, D), ``captions`` (n, C, F), ``names`` (K, P, F), and the image
    tower's classifier, ``classifier`` (K, D) and ``classifier_bias`` (K,). Also sets of labeled photographs.
    """

    images: Tensor
    captions: Tensor
    names: Tensor
    classifier: Tensor
    classifier_bias: Tensor
    label_sets: tuple[LabelSet, ...] = ()

    def subset(self, rows: Tensor) -> "LockedImageData":
        """Return the data of a subset of the photographs."""
        return replace(self, images=self.images[rows], captions=self.captions[rows])

    def class_probabilities(self, images: Tensor) -> Tensor:
        """Return the classifier's probabilities (…, K) for image features (…, D)."""
        return F.softmax(images @ self.classifier.T + self.classifier_bias, dim=-1)


@dataclass(frozen=True)
class TrainedHeads:
    """The two heads, and the logit scale of the distillation loss."""

    image: Head
    text: Head
    scale: float


def shifted_features(data: LockedImageData, count: int, shift: Tensor | float) -> Tensor:
    """Sample features (count, D): random views of random photographs, each shifted towards a random class."""
    photographs, views = len(data.images), data.images.shape[1]
    features = data.images[torch.randint(photographs, (count,)), torch.randint(views, (count,))]
    towards = F.normalize(data.classifier[torch.randint(len(data.classifier), (count,))], dim=-1)
    return F.relu(features + shift * towards)


def prepare_features(features: Tensor, prepare: Literal["unit", "root"]) -> Tensor:
    """Normalize features as a `Head` does before its first layer."""
    return F.normalize(features.clamp(min=0).sqrt() if prepare == "root" else features, dim=-1)


def head_settings(settings: LockedImageConfig) -> tuple[HeadSettings, HeadSettings]:
    """Return the heads' architectures: an MLP with a linear shortcut; for images without hidden units, linear."""
    shares = (1 - settings.trained_share, settings.trained_share)
    return (
        HeadSettings(
            "mlp" if settings.image_hidden else "linear",
            bias=True,
            hidden=settings.image_hidden,
            input_normalization="hellinger",
            part_weights=shares,
        ),
        HeadSettings("mlp", bias=True, hidden=settings.hidden, input_normalization="l2", part_weights=shares),
    )


def caption_moments(images: Tensor, captions: Tensor) -> Statistics:
    """Return the moments of images (n, V, D) and their captions (n, C, F)."""
    return statistics(prepare_features(images, "root"), prepare_features(captions, "unit"))


def training_moments(data: LockedImageData, settings: LockedImageConfig) -> Statistics:
    """Return the moments of the photographs and, unless ``distillation_weight`` is 0, of the class names."""
    count = data.captions.shape[1]  # as many of a label's prompts
    images = torch.cat([data.images, *(each.images for each in data.label_sets)])
    prompts = (each.names[each.classes][:, torch.arange(count) % each.names.shape[1]] for each in data.label_sets)
    moments = caption_moments(images, torch.cat([data.captions, *prompts]))
    if not settings.distillation_weight:
        return moments
    features = shifted_features(data, 8 * len(data.classifier), settings.class_shift)
    names = prepare_features(data.names, "unit")
    expected_names = data.class_probabilities(features) @ names.mean(dim=1)  # (count, F)
    of_classes = statistics(prepare_features(features, "root")[:, None], expected_names[:, None])
    return moments + replace(of_classes, text=covariance(names.flatten(0, 1))) * settings.class_weight


def closed_form(data: LockedImageData, settings: LockedImageConfig) -> tuple[nn.Linear, nn.Linear]:
    """Solve the first part: linear maps of normalized features, D and F to ``part``."""
    moments = training_moments(data, settings)
    image_map, text_map = canonical_maps(moments, settings.part, settings.image_ridge, settings.text_ridge)
    images, captions = prepare_features(data.images, "root"), prepare_features(data.captions, "unit")
    return as_linear(image_map, images.mean(dim=(0, 1))), as_linear(text_map, captions.mean(dim=(0, 1)))


@torch.no_grad()
def fit_caption_map(data: LockedImageData, settings: LockedImageConfig, others: Statistics | None = None) -> nn.Linear:
    """Fit a linear map from square-rooted image features (D) to the text features (F) of the image's caption.

    Ridge regression on the moments of `closed_form`, onto text features whitened with the same ridge, so that
    directions that all captions share do not dominate.

    Args:
        data: Training photographs.
        settings: Ridges and class weight.
        others: Moments of further captioned images (`caption_moments`), added without another weight.
    """
    moments = training_moments(data, settings)
    if others is not None:
        moments += others
    whiten = inverse_square_root(moments.image, settings.image_ridge)
    matrix = whiten @ whiten @ moments.cross @ inverse_square_root(moments.text, settings.text_ridge)
    layer = nn.Linear(*matrix.shape)
    layer.weight.copy_(matrix.T)
    layer.bias.copy_(-prepare_features(data.images, "root").mean(dim=(0, 1)) @ matrix)
    return layer


@torch.no_grad()
def as_linear(matrix: Tensor, centre: Tensor) -> nn.Linear:
    """Return the layer x ↦ (x - center) · matrix, scaled to the standard deviation of a freshly initialized layer."""
    matrix = matrix / (matrix.std() * len(matrix) ** 0.5)
    layer = nn.Linear(*matrix.shape)
    layer.weight.copy_(matrix.T)
    layer.bias.copy_(-centre @ matrix)
    return layer


class TrainedProjection(nn.Module):
    """The second part during training: a linear layer and, for texts, a residual MLP initialized to zero."""

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
        """Project normalized features to unit vectors of this part."""
        features = F.dropout(features, self.dropout, self.training)
        output = self.linear(features)
        return F.normalize(output if self.network is None else output + self.network(features), dim=-1)


def train_heads(
    data: LockedImageData, settings: LockedImageConfig, report: Callable[[int, float], None] = lambda *_: None
) -> TrainedHeads:
    """Train the second part and merge it with the first.

    Args:
        data: Features of the training photographs and the classifier.
        settings: Training configuration.
        report: Called after every step with its number and the loss.
    """
    torch.manual_seed(settings.seed)
    image_start, text_start = closed_form(data, settings)
    image = TrainedProjection(image_start, settings.image_hidden, settings.image_dropout)
    text = TrainedProjection(text_start, settings.hidden, settings.text_dropout)
    # Without training the temperature is not learned either and keeps its initial value.
    scale = train_projections(image, text, data, settings, report) if settings.trained_share else 20.0
    return merge_parts(image_start, text_start, image, text, scale, settings)


def train_projections(
    image: TrainedProjection,
    text: TrainedProjection,
    data: LockedImageData,
    settings: LockedImageConfig,
    report: Callable[[int, float], None],
) -> float:
    """Train the second part in place; return the learned logit scale of the class names."""
    captions, names = prepare_features(data.captions, "unit"), prepare_features(data.names, "unit")
    images = prepare_features(data.images, "root")
    photographs, views, per_photograph = len(images), images.shape[1], captions.shape[1]
    batch = min(settings.batch, photographs)
    label_sets = [
        LabelSet(prepare_features(each.images, "root"), each.classes, prepare_features(each.names, "unit"))
        for each in data.label_sets
    ]
    labeled = sum(len(each.classes) for each in label_sets)
    loss_row = LOSSES[settings.loss]
    caption_scale, name_scale, label_scale = (nn.Parameter(torch.tensor(math.log(20.0))) for _ in range(3))
    bias = nn.Parameter(torch.tensor(loss_row.logit_bias))

    projections = nn.ModuleDict({"image": image, "text": text})
    weights = dict(projections.named_parameters())
    linear = ("image.linear.weight", "text.linear.weight")
    named = [(name, weight) for name, weight in weights.items() if name not in linear]
    scales = {"caption_scale": caption_scale, "name_scale": name_scale, "label_scale": label_scale}
    named += [*scales.items(), ("bias", bias)]
    optimizer = adamw(named, settings.learning_rate, settings.weight_decay, eps=1e-8)
    optimizer.add_param_group(
        {"params": [weights[name] for name in linear], "weight_decay": 0.0, "lr_scale": settings.linear_lr_scale}
    )
    average = ExponentialMovingAverage(weights, settings.ema_decay)

    projections.train()
    for step in range(settings.steps):
        share = cosine_schedule(step / settings.steps, settings.warmup)
        set_learning_rate(optimizer, settings.learning_rate * share)

        rows = torch.randperm(photographs)[:batch]
        image_embeddings = image(images[rows, torch.randint(views, (batch,))])  # (B, part)
        text_embeddings = text(captions[rows, torch.randint(per_photograph, (batch,))])
        loss = settings.caption_weight * loss_row.compute(
            image_embeddings, text_embeddings, caption_scale.exp(), bias, 0.0, None, None, None
        )
        if settings.distillation_weight:
            features = shifted_features(data, batch, settings.class_shift * torch.rand(batch, 1))
            prompt = int(torch.randint(names.shape[1], ()))
            loss = loss + settings.distillation_weight * distillation_loss(
                image(prepare_features(features, "root")),
                text(names[:, prompt]),
                name_scale.exp(),
                data.class_probabilities(features),
            )
        for each in label_sets if settings.label_weight else ():
            drawn = torch.randint(len(each.classes), (max(8, settings.label_batch * len(each.classes) // labeled),))
            view, prompt = int(torch.randint(views, ())), int(torch.randint(each.names.shape[1], ()))
            logits = label_scale.exp() * image(each.images[drawn, view]) @ text(each.names[:, prompt]).T
            of_set = F.cross_entropy(logits, each.classes[drawn]) * len(drawn) / settings.label_batch
            loss = loss + settings.label_weight * of_set
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for scale in scales.values():
                scale.clamp_(max=math.log(100))
        average.update(weights)
        report(step, loss.item())

    projections.load_state_dict(average.weights)
    projections.eval()
    return (name_scale if settings.distillation_weight else caption_scale).exp().item()


@torch.no_grad()
def merge_parts(
    image_start: nn.Linear,
    text_start: nn.Linear,
    image: TrainedProjection,
    text: TrainedProjection,
    scale: float,
    settings: LockedImageConfig,
) -> TrainedHeads:
    """Merge both parts into one head per encoder, as a `TwoTowers` expects them."""
    image_shape, text_shape = head_settings(settings)
    image_head = Head(image_shape, image.linear.in_features, 2 * settings.part)
    text_head = Head(text_shape, text.linear.in_features, 2 * settings.part)
    for head, first, second in ((image_head, image_start, image.linear), (text_head, text_start, text.linear)):
        head.linear.weight.copy_(torch.cat([first.weight, second.weight]))
        head.linear.bias.copy_(torch.cat([first.bias, second.bias]))
    for head, projection in ((image_head, image), (text_head, text)):
        if projection.network is None:
            continue
        norm, up, _, _, down = projection.network
        head.norm.load_state_dict(norm.state_dict())
        head.up.load_state_dict(up.state_dict())
        for name, trained in down.named_parameters():  # the first part is linear: the network adds nothing to it
            head.down.get_parameter(name).copy_(torch.cat([torch.zeros_like(trained), trained]))
    return TrainedHeads(image_head.eval(), text_head.eval(), scale)
