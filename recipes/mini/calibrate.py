"""Calibrate `match` of `mini` on held-out photographs, for each text tower by itself.

    python recipes/mini/calibrate.py --collection FOLDER

It needs the heads of train_heads.py and train_multilingual_head.py, and takes a minute. calibration.safetensors and
multilingual-calibration.safetensors are written beside the heads.

Three kinds of pairs count, those of a kind that do not match being drawn so that each kind has equally many: captions
with the photographs of other captions; class names of ImageNet with photographs to which the image encoder's classifier
assigns at least 0.8, or below 0.001; and the labels of one domain, such as clothes, with photographs of another of its
labels. The background of a tower consists of 256 captions of training photographs and 256 class names.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from beholder.evaluation.calibration import calibration_error, fit_calibration
from beholder.text.templates import ENSEMBLE, fill_templates
from beholder.weights import calibration, mini
from beholder.weights.calibration import Calibration
from collection import CHINESE_PROMPTS, WORK, Collection, chinese_names
from dataset import class_names
from heads_file import Projection, read_projections
from photographs import Photograph
from train_heads import read_views

NEGATIVES = 12_000  # pairs of each kind that do not match
BACKGROUND = 256  # captions, and class names
SURE, EXCLUDED = 0.8, 0.001  # probabilities above which a class name fits, and below which it does not
TEMPLATES = {"minilm": ENSEMBLE, "e5": CHINESE_PROMPTS[1:2]}


class Pairs:
    """Pairs of images and sentences of one kind: embeddings (n, E) and (m, E), ``fits`` and ``known`` (n, m)."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, fits: np.ndarray, known: np.ndarray | None = None):
        self.images, self.texts, self.fits = images.numpy(), texts.numpy(), fits
        self.known = np.ones_like(fits) if known is None else known

    def drawn(self, generator: np.random.Generator) -> np.ndarray:
        """Return a mask (n, m) of all matching pairs and at most `NEGATIVES` others."""
        others = np.flatnonzero(self.known & ~self.fits)
        chosen = self.known & self.fits
        chosen.flat[generator.choice(others, min(NEGATIVES, len(others)), replace=False)] = True
        return chosen


@torch.no_grad()
def pairs_of(collection: Collection, tower: str, image: Projection, text: Projection) -> tuple[list[Pairs], np.ndarray]:
    """Return the pairs of the calibration photographs, and the background (K, E), for one text tower."""
    features, rows = read_views(collection, 1)
    vectors = collection.vectors(tower)
    translated = chinese_names()
    classifier = mini.image_tower().classifier
    if classifier is None:
        raise TypeError("the image tower came without its classifier")

    def pooled(photographs: list[Photograph]) -> torch.Tensor:
        return features[[rows[photograph.path.name] for photograph in photographs], 0]

    def names(labels: list[str]) -> torch.Tensor:
        own = labels if tower == "minilm" else [translated[label] for label in labels]
        prompts = vectors[fill_templates(TEMPLATES[tower], own)].unflatten(0, (-1, len(TEMPLATES[tower])))
        return F.normalize(text(prompts).mean(dim=1), dim=-1)

    def captions(photograph: Photograph) -> list[str]:
        own = photograph.captions if tower == "minilm" else photograph.chinese
        return [caption for caption in own if caption in vectors.index]

    held_out = collection.parts["calibration"]
    captioned = [photograph for photograph in held_out if captions(photograph)]
    owner = np.repeat(np.arange(len(captioned)), [len(captions(photograph)) for photograph in captioned])
    sentences = text(vectors[[caption for photograph in captioned for caption in captions(photograph)]])
    pairs = [Pairs(image(pooled(captioned)), sentences, owner[None, :] == np.arange(len(captioned))[:, None])]

    probabilities = F.softmax(classifier(pooled(held_out)), dim=-1).detach().numpy()
    class_vectors = names(class_names())
    fits = probabilities > SURE
    named = np.flatnonzero(fits.any(axis=0))
    known = fits[:, named] | (probabilities[:, named] < EXCLUDED)
    pairs.append(Pairs(image(pooled(held_out)), class_vectors[named], fits[:, named], known))

    for source, labels in collection.label_sets.items():
        own = [photograph for photograph in held_out if photograph.source == source]
        fits = np.array([[photograph.label == label for label in labels] for photograph in own])
        pairs.append(Pairs(image(pooled(own)), names(labels), fits))

    generator = np.random.default_rng(0)
    known_captions = [caption for photograph in collection.parts["training"] for caption in captions(photograph)]
    background = vectors[generator.choice(known_captions, BACKGROUND, replace=False).tolist()]
    chosen = generator.choice(len(class_vectors), BACKGROUND, replace=False)
    return pairs, torch.cat([text(background), class_vectors[chosen]]).numpy()


def fit(pairs: list[Pairs], background: np.ndarray) -> Calibration:
    """Fit one curve to all pairs."""
    generator = np.random.default_rng(0)
    images = np.concatenate([each.images for each in pairs])
    texts = np.concatenate([each.texts for each in pairs])
    fits = np.zeros((len(images), len(texts)), bool)
    known = np.zeros_like(fits)
    row = column = 0
    for each in pairs:
        place = slice(row, row + len(each.images)), slice(column, column + len(each.texts))
        fits[place], known[place] = each.fits, each.drawn(generator)
        row, column = row + len(each.images), column + len(each.texts)
    return fit_calibration(images, texts, fits, background, known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=mini.HEADS, help="folder of the heads")
    options = parser.parse_args()
    collection, projections = Collection(options.collection, options.work), read_projections(options.out)
    towers = {"minilm": ("text", calibration.FILE), "e5": ("multilingual", calibration.MULTILINGUAL_FILE)}
    for tower, (head, file) in towers.items():
        pairs, background = pairs_of(collection, tower, projections["image"], projections[head])
        fitted = fit(pairs, background)
        fitted.save(options.out, file)
        errors = [
            round(calibration_error(fitted.match(each.images, each.images @ each.texts.T), each.fits), 3)
            for each in pairs
        ]
        print(f"{file}: weights {fitted.weights.round(2).tolist()}, error on each kind of pairs {errors}")


if __name__ == "__main__":
    main()
