"""Compares ways to train the English heads of `mini`, on the calibration photographs, which no variant is trained on.

    python benchmarks/mini_variants.py --collection FOLDER [--work FOLDER]

It needs what recipes/mini/cache_image_features.py and cache_sentence_vectors.py have computed. Prints, for each
variant, text→image recall@1/5/10 among the captioned photographs, how often a label of the labeled ones comes first in
its set, and how often the heads' first choice among the thousand class names of ImageNet is the image tower's own where
that is sure (agreement).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from beholder.evaluation.retrieval import recall

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
from collection import VIEWS, WORK, Collection
from locked_image_tuning import LockedImageConfig, LockedImageData, train_heads
from train_heads import heads_data

VARIANTS = {
    "mini": LockedImageConfig(),
    "closed form alone": LockedImageConfig(trained_share=0.0),
    "trained part alone": LockedImageConfig(trained_share=1.0),
    "sigmoid loss": LockedImageConfig(loss="sigmoid"),
    "without labels": LockedImageConfig(label_weight=0.0),
    "without distillation": LockedImageConfig(distillation_weight=0.0),
}


@torch.no_grad()
def measure(training: LockedImageData, held_out: LockedImageData, settings: LockedImageConfig) -> list[float]:
    with torch.enable_grad():
        heads = train_heads(training, settings)

    def embed_images(features: torch.Tensor) -> torch.Tensor:
        return F.normalize(heads.image(features[:, 0]), dim=-1)

    def embed_names(names: torch.Tensor) -> torch.Tensor:
        return F.normalize(
            F.normalize(heads.text(names.flatten(0, 1)), dim=-1).unflatten(0, names.shape[:2]).mean(1), dim=-1
        )

    images = embed_images(held_out.images)
    texts = F.normalize(heads.text(held_out.captions.flatten(0, 1)), dim=-1)
    owner = np.arange(len(images)).repeat(held_out.captions.shape[1])
    recalls = recall(images.numpy(), texts.numpy(), owner)
    right = [
        ((embed_images(each.images) @ embed_names(each.names).T).argmax(dim=-1) == each.classes).float().mean().item()
        for each in held_out.label_sets
    ]
    sure, own = held_out.class_probabilities(held_out.images[:, 0]).max(dim=-1)
    agreement = ((images @ embed_names(held_out.names).T).argmax(dim=-1) == own)[sure > 0.6].float().mean().item()
    return [*(recalls[f"text_to_image@{k}"] for k in (1, 5, 10)), float(np.mean(right)), agreement]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=WORK, help="where features are kept")
    options = parser.parse_args()
    collection = Collection(options.collection, options.work)
    training, held_out = (heads_data(collection, part, VIEWS) for part in ("training", "calibration"))
    print("| variant | recall@1 | @5 | @10 | labels | agreement |\n|---|---|---|---|---|---|")
    for name, settings in VARIANTS.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in measure(training, held_out, settings)) + " |")


if __name__ == "__main__":
    main()
