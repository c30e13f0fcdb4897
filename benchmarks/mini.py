"""How good `mini` is, on photographs that its training never saw: the figures of its model card.

    python benchmarks/mini.py --photographs captions.jsonl [--categories FILE] [--imagenet FILE]

--photographs: the JSON lines that recipes/mini/train_heads.py was given; only the part kept out of training is used.
--categories, --imagenet: JSON lines with image and label (the second also index, the class's number).
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from beholder import DualEncoder
from beholder.evaluation.calibration import calibration_error
from beholder.evaluation.retrieval import recall
from beholder.text.templates import ENSEMBLE

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
from dataset import class_names, split
from photographs import read_photographs


def row(name: str, value: float, detail: str = "") -> None:
    print(json.dumps({"metric": name, "value": round(value, 3), "detail": detail}), flush=True)


def retrieval(encoder: DualEncoder, file: Path) -> None:
    test = split(read_photographs(file))["test"]
    images = encoder.embed_images([photograph.path for photograph in test])
    texts = encoder.embed_texts([caption for photograph in test for caption in photograph.captions])
    owner = np.repeat(np.arange(len(test)), [len(photograph.captions) for photograph in test])
    away = sum(photograph.source == "coco" for photograph in test)
    for name, value in recall(images, texts, owner).items():
        row(name, value, f"{len(test)} photographs, {away} of a collection that training never saw")
    fits = owner[None, :] == np.arange(len(test))[:, None]
    row("calibration error of match", calibration_error(encoder.match(images, texts), fits), "10 bins, even odds")


def choice(
    encoder: DualEncoder, name: str, rows: list[dict], folder: Path, labels: list[str], wanted: list[int]
) -> None:
    images = encoder.embed_images([folder / row["image"] for row in rows])
    order = np.argsort(-(images @ encoder.embed_labels(labels, ENSEMBLE).T), axis=1)
    right = np.array([labels[chosen] == labels[target] for chosen, target in zip(order[:, 0], wanted, strict=True)])
    styles = np.array([row.get("style", "photo") for row in rows])
    for style in sorted(set(styles)):
        chosen = right[styles == style]
        row(f"{name}, {style}", chosen.mean(), f"{len(chosen)} pictures, {len(labels)} labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--categories", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--fewest", type=int, default=4, help="leave out categories with fewer photographs")
    parser.add_argument("--without", nargs="*", default=["vegetable", "tool"], help="categories that overlap others")
    options = parser.parse_args()
    encoder = DualEncoder.from_pretrained("mini")
    retrieval(encoder, options.photographs)
    if options.categories:
        rows = [json.loads(line) for line in options.categories.read_text().splitlines()]
        photos = [row["label"] for row in rows if row.get("style", "photo") == "photo"]
        labels = sorted({x for x in photos if photos.count(x) >= options.fewest and x not in options.without})
        rows = [row for row in rows if row["label"] in labels]
        wanted = [labels.index(row["label"]) for row in rows]
        choice(encoder, "everyday categories", rows, options.categories.parent, labels, wanted)
    if options.imagenet:
        rows = [json.loads(line) for line in options.imagenet.read_text().splitlines()]
        choice(encoder, "ImageNet names", rows, options.imagenet.parent, class_names(), [row["index"] for row in rows])


if __name__ == "__main__":
    main()
