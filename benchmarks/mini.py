"""Measure `mini` on photographs that its training has never seen: the figures of its model card.

    python benchmarks/mini.py --collection FOLDER [--work FOLDER] [--categories FILE] [--imagenet FILE]

--collection: a folder with captions.jsonl and labels.jsonl. Each source is reported by itself, in English and, if it
has Chinese captions, in Chinese; only the test part of `photographs.split_by_source` is used.
--categories, --imagenet: JSON lines with image and label (the second also index, the class number).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beholder import DualEncoder
from beholder.evaluation.calibration import calibration_error
from beholder.evaluation.retrieval import recall
from beholder.tasks.classify import NONE
from beholder.text.templates import ENSEMBLE
from beholder.weights import mini

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
from collection import Collection, chinese_names
from dataset import class_names
from photographs import Photograph

CHINESE_TEMPLATES = ("一张{}的照片",)
SURE = 0.6  # probability above which the classifier is relied on


def row(name: str, value: float, detail: str = "") -> None:
    print(json.dumps({"metric": name, "value": round(value, 3), "detail": detail}), flush=True)


def retrieval(
    encoder: DualEncoder, name: str, images: np.ndarray, captions: Sequence[Sequence[str]], detail: str
) -> None:
    """Text-to-image and image-to-text recall, and how far `match` is off, for images and the captions of each."""
    sentences = [caption for several in captions for caption in several]
    texts = encoder.embed_texts(sentences)
    owner = np.repeat(np.arange(len(captions)), [len(several) for several in captions])
    for metric, value in recall(images, texts, owner).items():
        row(f"{name}{metric}", value, detail)
    fits = owner[None, :] == np.arange(len(captions))[:, None]
    match = encoder.match(images, texts, sentences)
    row(f"{name}calibration error of match", calibration_error(match, fits), "10 bins, even odds")


def embed(encoder: DualEncoder, photographs: Sequence[Photograph]) -> np.ndarray:
    return encoder.embed_images([photograph.path for photograph in photographs])


def each_source(encoder: DualEncoder, folder: Path, work: Path) -> None:
    collection = Collection(folder, work)
    test = collection.parts["test"]
    agreement(encoder, [photograph for photograph in test if photograph.label])
    for source in sorted({photograph.source for photograph in test}):
        own = [photograph for photograph in test if photograph.source == source]
        if own[0].label:
            labels = collection.label_sets[source]
            places = [labels.index(one.label) for one in own]
            images, translated = embed(encoder, own), chinese_names()
            labeled(encoder, f"{source}, English: ", images, labels, places)
            labeled(encoder, f"{source}, Chinese: ", images, [translated[label] for label in labels], places)
        elif own[0].captions:
            images = embed(encoder, own)
            detail = f"{len(own)} photographs"
            retrieval(encoder, f"{source}, English: ", images, [one.captions for one in own], detail)
            kept = [number for number, one in enumerate(own) if one.chinese]
            if kept:
                detail = f"{len(kept)} photographs"
                chinese = [own[number].chinese for number in kept]
                retrieval(encoder, f"{source}, Chinese: ", images[kept], chinese, detail)


def labeled(encoder: DualEncoder, name: str, images: np.ndarray, labels: Sequence[str], places: Sequence[int]) -> None:
    """How often the label is right, and what `match` and "none of these" are worth among the labels of one domain."""
    embeddings = encoder.embed_labels(labels, ENSEMBLE if name.endswith("English: ") else CHINESE_TEMPLATES)
    detail = f"{len(images)} photographs, {len(labels)} labels"
    fits = np.array(places)[:, None] == np.arange(len(labels))
    row(f"{name}label right", np.mean((images @ embeddings.T).argmax(axis=1) == places), detail)
    match = encoder.match(images, embeddings, labels)
    row(f"{name}calibration error of match", calibration_error(match, fits), "10 bins, even odds")
    if (match >= 0.9).any():
        row(f"{name}right where match is at least 0.9", fits[match >= 0.9].mean(), f"{(match >= 0.9).sum()} pairs")
    row(f"{name}labels with a match above 0.5", (match > 0.5).sum(axis=1).mean(), "mean of a photograph")
    refused = {True: 0, False: 0}
    for image, place in zip(images, places, strict=True):
        for listed in (True, False):
            kept = [number for number in range(len(labels)) if listed or number != place]
            names = [labels[number] for number in kept]
            answer = encoder.classify_embeddings(image[None], names, embeddings[kept], none=True)[0]
            refused[listed] += answer[0][0] == NONE
    row(f"{name}'{NONE}' where the label is listed", refused[True] / len(images), "wrong")
    row(f"{name}'{NONE}' where it is not", refused[False] / len(images), "right")


def agreement(encoder: DualEncoder, photographs: Sequence[Photograph]) -> None:
    """How often the best of ImageNet's names is the class of the image tower's own classifier, where that is sure."""
    import torch

    classifier = mini.image_tower().classifier
    pooled = [each.embedding for each in encoder.stream_images([one.path for one in photographs], features=True)]
    with torch.inference_mode():
        sure, own = classifier(torch.from_numpy(np.stack(pooled))).softmax(dim=-1).max(dim=-1)
    chosen = (embed(encoder, photographs) @ encoder.embed_labels(class_names(), ENSEMBLE).T).argmax(axis=1)
    known = (sure > SURE).numpy()
    row("ImageNet names: the classifier's class", (chosen == own.numpy())[known].mean(), f"{known.sum()} photographs")


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
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="where perceptual hashes are cached")
    parser.add_argument("--categories", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--fewest", type=int, default=4, help="leave out categories with fewer photographs")
    parser.add_argument("--without", nargs="*", default=["vegetable", "tool"], help="categories that overlap others")
    options = parser.parse_args()
    encoder = DualEncoder.from_pretrained("mini")
    if options.collection:
        each_source(encoder, options.collection, options.work)
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
