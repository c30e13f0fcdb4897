"""Train the head of the second text tower of `mini` into the space of the English one, which stays as it is.

    python recipes/mini/train_multilingual_head.py --collection FOLDER

It needs what cache_sentence_vectors.py --tower e5 has computed, and the heads of train_heads.py, to which it adds. It
takes about five minutes on two cores.

The tower reads Chinese captions, and English ones, too, since many photographs have none in Chinese: English vectors
are shifted by the difference of both languages' means, so that they look like Chinese ones. The loss is contrastive
with the photographs, plus the distance to what the English head makes of the same sentence, of the English captions of
the same photograph, or of the class name that is translated; plus a cross-entropy over the labels of one domain.

Shapes: n photographs, V views, F the tower's width, E the shared space.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from beholder.models.layers import Head, HeadSettings
from beholder.models.text_encoder import TextEncoderSettings
from beholder.text.templates import SINGLE, fill_templates
from beholder.training.losses import contrastive_loss
from beholder.training.optimization import ExponentialMovingAverage, adamw, cosine_schedule, set_learning_rate
from beholder.weights import mini
from collection import CHINESE_PROMPTS, PROMPTS, VIEWS, WORK, Collection, chinese_names
from dataset import class_names
from heads_file import Projection, read_heads, read_projections, write_heads
from train_heads import heads_data, read_views


@dataclass(frozen=True)
class MultilingualConfig:
    """Training configuration of the second text head.

    Attributes:
        alignment_weight: Weight of the distance to the English embedding.
        chinese: Share of a batch that are Chinese captions; the rest are English.
    """

    hidden: int = 768
    steps: int = 400
    batch: int = 512
    chinese: float = 0.6
    alignment_weight: float = 20.0
    label_weight: float = 0.5
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: float = 0.06
    ema_decay: float = 0.98
    seed: int = 0


@dataclass(frozen=True)
class Sentences:
    """Sentences of the second tower: vectors (m, F), their targets (m, E), and rows (m,) of the photographs, or -1."""

    vectors: Tensor
    targets: Tensor
    photographs: Tensor


def unit(values: Tensor) -> Tensor:
    return F.normalize(values, dim=-1)


def sentences_of(collection: Collection, rows: dict[str, int], text: Projection) -> tuple[Sentences, Sentences]:
    """Return the Chinese captions and the English ones of the training photographs, the latter shifted."""
    second, first = collection.vectors("e5"), collection.vectors("minilm")
    training = [photograph for photograph in collection.parts["training"] if photograph.captions]
    chinese = [(one, caption) for one in training for caption in one.chinese if caption in second.index]
    english = [(one, caption) for one in training for caption in one.captions if caption in second.index]
    of_photograph = {
        one.path: unit(text(first[list(one.captions)]).mean(dim=0))
        for one in dict(chinese)  # any caption will do
    }
    chinese_vectors = unit(second[[caption for _, caption in chinese]])
    english_vectors = unit(second[[caption for _, caption in english]])
    parallel = {photograph.path for photograph in training if photograph.chinese}
    same = torch.tensor([one.path in parallel for one, _ in english])
    shift = chinese_vectors.mean(dim=0) - english_vectors[same].mean(dim=0)
    return (
        Sentences(
            chinese_vectors,
            torch.stack([of_photograph[one.path] for one, _ in chinese]),
            torch.tensor([rows[one.path.name] for one, _ in chinese]),
        ),
        Sentences(
            english_vectors + shift,
            text(first[[caption for _, caption in english]]),
            torch.tensor([rows[one.path.name] for one, _ in english]),
        ),
    )


def train(
    collection: Collection, settings: MultilingualConfig, projections: dict[str, Projection], views: int = VIEWS
) -> Head:
    """Train the head and return it."""
    torch.manual_seed(settings.seed)
    image, text = projections["image"], projections["text"]
    features, rows = read_views(collection, views)
    with torch.no_grad():
        images = image(features)  # (n, V, E)
        chinese, english = sentences_of(collection, rows, text)
    data = heads_data(collection, "training", views)
    second, first = collection.vectors("e5"), collection.vectors("minilm")
    translated = chinese_names()

    def names(labels: list[str]) -> tuple[Tensor, Tensor]:
        """Vectors (L, P, F) of Chinese names, and targets (L, E)."""
        vectors = second[fill_templates(CHINESE_PROMPTS, [translated[label] for label in labels])]
        prompts = [*SINGLE, *PROMPTS[3:]]
        targets = text(first[fill_templates(prompts, labels)]).unflatten(0, (-1, len(prompts))).mean(dim=1)
        return unit(vectors).unflatten(0, (-1, len(CHINESE_PROMPTS))), unit(targets)

    classes, class_targets = names(class_names())
    label_sets = [
        (*names(labels), each) for labels, each in zip(collection.label_sets.values(), data.label_sets, strict=True)
    ]
    parts = projections["text"].head.settings.part_weights
    shape = HeadSettings("mlp", bias=True, hidden=settings.hidden, input_normalization="l2", part_weights=parts)
    head = Head(shape, chinese.vectors.shape[1], images.shape[-1])
    start_from_regression(head, chinese, english)
    head = fit(head, settings, images, chinese, english, (classes, class_targets), label_sets, image)
    return head.eval()


@torch.no_grad()
def start_from_regression(head: Head, chinese: Sentences, english: Sentences, ridge: float = 0.01) -> None:
    """Initialize the linear map by ridge regression onto the targets, and the MLP's output by zero."""
    inputs = torch.cat([chinese.vectors, english.vectors])
    targets = torch.cat([chinese.targets, english.targets])
    mean = inputs.mean(dim=0)
    centered = inputs - mean
    gram = centered.T @ centered
    gram += ridge * gram.trace() / len(gram) * torch.eye(len(gram))
    matrix = torch.linalg.solve(gram, centered.T @ targets)
    head.linear.weight.copy_(matrix.T)
    head.linear.bias.copy_(targets.mean(dim=0) - mean @ matrix)
    head.down.weight.zero_()
    head.down.bias.zero_()


def fit(
    head: Head,
    settings: MultilingualConfig,
    images: Tensor,
    chinese: Sentences,
    english: Sentences,
    names: tuple[Tensor, Tensor],
    label_sets: list,
    image: Projection,
) -> Head:
    """Train the head by gradient descent; return its moving average."""
    scales = {name: torch.nn.Parameter(torch.tensor(math.log(30.0))) for name in ("captions", "labels")}
    weights = dict(head.named_parameters())
    named_weights = [*weights.items(), *scales.items()]
    optimizer = adamw(named_weights, settings.learning_rate, settings.weight_decay, eps=1e-8)
    average = ExponentialMovingAverage(weights, settings.ema_decay)

    def embed(vectors: Tensor) -> Tensor:
        return unit(head(F.dropout(vectors, settings.dropout)))

    views = images.shape[1]
    sizes = torch.tensor([float(len(each.classes)) for _, _, each in label_sets])
    own = round(settings.batch * settings.chinese)
    for step in range(settings.steps):
        share = cosine_schedule(step / settings.steps, settings.warmup)
        set_learning_rate(optimizer, settings.learning_rate * share)
        drawn = (
            (chinese, torch.randint(len(chinese.vectors), (own,))),
            (english, torch.randint(len(english.vectors), (settings.batch - own,))),
        )
        loss = torch.zeros(())
        for sentences, chosen in drawn:
            embeddings = embed(sentences.vectors[chosen])
            photographs = sentences.photographs[chosen]
            targets = images[photographs, torch.randint(views, (len(chosen),))]
            same = photographs[:, None] == photographs
            share = len(chosen) / settings.batch
            loss = loss + share * contrastive_loss(targets, embeddings, scales["captions"].exp(), duplicates=same)
            distance = (1 - (embeddings * sentences.targets[chosen]).sum(-1)).mean()
            loss = loss + share * settings.alignment_weight * distance
        vectors, targets = names
        chosen = torch.randint(len(targets), (settings.batch // 2,))
        named = embed(vectors[chosen, torch.randint(vectors.shape[1], chosen.shape)])
        loss = loss + settings.alignment_weight * (1 - (named * targets[chosen]).sum(-1)).mean()
        # One set of labels, the more often the larger it is.
        vectors, targets, each = label_sets[int(torch.multinomial(sizes, 1))]
        named = embed(vectors[:, int(torch.randint(vectors.shape[1], ()))])
        with torch.no_grad():
            chosen = torch.randint(len(each.classes), (128,))
            labeled = image(each.images[chosen, int(torch.randint(views, ()))])
        of_set = F.cross_entropy(scales["labels"].exp() * labeled @ named.T, each.classes[chosen])
        of_set = of_set + settings.alignment_weight * (1 - (named * targets).sum(-1)).mean()
        loss = loss + settings.label_weight * of_set
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for scale in scales.values():
                scale.clamp_(max=math.log(100))
        average.update(weights)
        if step % 100 == 0 or step == settings.steps - 1:
            print(json.dumps({"step": step, "loss": round(loss.item(), 4)}), flush=True)
    head.load_state_dict(average.weights)
    return head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--views", type=int, default=VIEWS)
    parser.add_argument("--out", type=Path, default=mini.HEADS, help="folder of the heads")
    options = parser.parse_args()
    settings = MultilingualConfig()
    head = train(Collection(options.collection, options.work), settings, read_projections(options.out), options.views)
    tensors, config = read_heads(options.out)
    tower = mini.multilingual_text_tower().settings
    shape = TextEncoderSettings(tower, head.linear.out_features, head.settings)
    tensors |= {f"{mini.SECOND}text_head.{name}": tensor for name, tensor in head.state_dict().items()}
    config |= {"multilingual": shape.to_dict(), "multilingual_training": asdict(settings)}
    write_heads(options.out, tensors, config)


if __name__ == "__main__":
    main()
