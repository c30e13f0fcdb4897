"""Train the English heads of `mini` on top of frozen encoders: locked-image tuning on captions and labels.

    python recipes/mini/train_heads.py --collection FOLDER

It needs what cache_image_features.py and cache_sentence_vectors.py --tower minilm have computed, and takes about five
minutes on two cores. heads.safetensors and beholder.json are written into the package
(src/beholder/weights/mini_heads); train_multilingual_head.py and calibrate.py complete them.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.efficientnet_lite import EfficientNetLiteSettings
from beholder.text.templates import fill_templates
from beholder.weights import mini
from collection import PROMPTS, VIEWS, WORK, Collection
from dataset import class_names
from heads_file import write_heads
from locked_image_tuning import LabelSet, LockedImageConfig, LockedImageData, head_settings, train_heads
from photographs import Photograph

CAPTIONS = 5  # of each photograph; those of one with fewer are repeated


def read_views(collection: Collection, views: int) -> tuple[torch.Tensor, dict[str, int]]:
    """Return features (n, V, D) of all photographs, the first view standing in for one not computed, and their rows."""
    first, *others = (np.array(collection.image_features(view), np.float32) for view in range(views))
    for other in others:
        missing = ~other.any(axis=1)
        other[missing] = first[missing]
    rows = {photograph.path.name: row for row, photograph in enumerate(collection.photographs)}
    return torch.from_numpy(np.stack([first, *others], axis=1)), rows


def heads_data(collection: Collection, part: str, views: int = VIEWS, captions: int = CAPTIONS) -> LockedImageData:
    """Return the features of the photographs of a part of the split."""
    features, rows = read_views(collection, views)
    vectors = collection.vectors("minilm")
    tower = mini.image_tower()
    if tower.classifier is None:
        raise TypeError("the image tower came without its classifier")

    def images(photographs: list[Photograph]) -> torch.Tensor:
        return features[[rows[photograph.path.name] for photograph in photographs]]

    def names(labels: list[str]) -> torch.Tensor:
        return vectors[fill_templates(PROMPTS, labels)].unflatten(0, (-1, len(PROMPTS)))

    photographs = collection.parts[part]
    known = {
        photograph: [caption for caption in photograph.captions if caption in vectors.index]
        for photograph in photographs
    }
    captioned = [photograph for photograph in photographs if known[photograph]]
    repeated = [(known[photograph] * captions)[:captions] for photograph in captioned]
    label_sets = []
    for source, labels in collection.label_sets.items():
        own = [photograph for photograph in photographs if photograph.label and photograph.source == source]
        classes = torch.tensor([labels.index(photograph.label) for photograph in own])
        label_sets.append(LabelSet(images(own), classes, names(labels)))
    return LockedImageData(
        images(captioned),
        vectors[[caption for several in repeated for caption in several]].unflatten(0, (-1, captions)),
        names(class_names()),
        tower.classifier.weight.detach(),
        tower.classifier.bias.detach(),
        tuple(label_sets),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--views", type=int, default=VIEWS)
    parser.add_argument("--out", type=Path, default=mini.HEADS, help="output folder of the heads")
    options = parser.parse_args()
    settings = LockedImageConfig()
    data = heads_data(Collection(options.collection, options.work), "training", options.views)

    def report(step: int, loss: float) -> None:
        if step % 50 == 0 or step == settings.steps - 1:
            print(json.dumps({"step": step, "loss": round(loss, 4)}), flush=True)

    heads = train_heads(data, settings, report)
    image_head, text_head = head_settings(settings)
    network = TwoTowersSettings(
        image=EfficientNetLiteSettings(classes=0),
        text=mini.text_tower().settings,
        embedding=2 * settings.part,
        image_head=image_head,
        text_head=text_head,
    )
    tensors = {f"image_head.{name}": tensor for name, tensor in heads.image.state_dict().items()}
    tensors |= {f"text_head.{name}": tensor for name, tensor in heads.text.state_dict().items()}
    tensors["logit_scale"] = torch.tensor(heads.scale).log()
    config = {
        "format": "beholder heads",
        "version": 1,
        "name": "mini",
        "network": network.to_dict(),
        "preprocessing": asdict(mini.PREPROCESSING),
        "training": asdict(settings),
    }
    write_heads(options.out, tensors, config)


if __name__ == "__main__":
    main()
