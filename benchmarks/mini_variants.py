"""Compares ways to train the heads of `mini`, by cross-validation within the training photographs.

    python benchmarks/mini_variants.py --photographs captions.jsonl [--folds 3]

Prints, for each variant, text→image recall@1/5/10 among the held-out fold, and how often the heads' first choice among
the thousand class names is the image tower's own where that is sure (agreement).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from beholder.evaluation.retrieval import recall

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
from dataset import load_features
from locked_image_tuning import LockedImageConfig, LockedImageData, train_heads

VARIANTS = {
    "closed form, captions alone": LockedImageConfig(trained_share=0.0, distillation_weight=0.0),
    "closed form, with class names": LockedImageConfig(trained_share=0.0),
    "trained part alone": LockedImageConfig(trained_share=1.0),
    "both (mini)": LockedImageConfig(),
    "both, sigmoid loss": LockedImageConfig(loss="sigmoid"),
}


@torch.no_grad()
def measure(data: LockedImageData, training: torch.Tensor, held_out: torch.Tensor, settings: LockedImageConfig):
    with torch.enable_grad():
        heads = train_heads(data.subset(training), settings)
    images = F.normalize(heads.image(data.images[held_out, 0]), dim=-1)
    texts = F.normalize(heads.text(data.captions[held_out].flatten(0, 1)), dim=-1)
    owner = np.arange(len(held_out)).repeat(data.captions.shape[1])
    recalls = recall(images.numpy(), texts.numpy(), owner)
    names = F.normalize(heads.text(data.names[:, 0]), dim=-1)
    sure, own = data.class_probabilities(data.images[held_out].flatten(0, 1)).max(dim=-1)
    views = F.normalize(heads.image(data.images[held_out].flatten(0, 1)), dim=-1)
    agreement = ((views @ names.T).argmax(dim=-1) == own)[sure > 0.6].float().mean().item()
    return [recalls[f"text_to_image@{k}"] for k in (1, 5, 10)] + [agreement]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="where features are kept")
    parser.add_argument("--folds", type=int, default=3, help="of three: how many to hold out in turn")
    options = parser.parse_args()
    data, rows = load_features(options.photographs, options.work)
    thirds = rows["training"].chunk(3)
    print("| variant | recall@1 | @5 | @10 | agreement |\n|---|---|---|---|---|")
    for name, settings in VARIANTS.items():
        results = []
        for fold in range(options.folds):
            training = torch.cat([third for number, third in enumerate(thirds) if number != fold])
            results.append(measure(data, training, thirds[fold], settings))
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in np.mean(results, axis=0)) + " |", flush=True)


if __name__ == "__main__":
    main()
