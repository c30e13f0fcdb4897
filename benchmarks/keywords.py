"""The cut-off of `caption --keywords-from`: how many keywords are right, and how many are found, at each.

    python benchmarks/keywords.py --collection FOLDER [--part test]

Two vocabularies on photographs that `mini`'s training has never seen. Everyday nouns, on captioned photographs: a noun
is right if a caption names it, wrong if none does, and not counted if a caption names something like it. The class
names of all labeled photographs: right is the photograph's own. "F0.5" weighs a wrong keyword more than a missing one.
The default was chosen on the calibration part.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beholder import DualEncoder
from beholder.tasks.keywords import KeywordChooser, default_min_match

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
from collection import Collection
from photographs import Photograph
from questions import ALIKE, NOUNS, named_nouns

CUT_OFFS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
FEWEST_CAPTIONS = 3  # a single caption leaves out most of what can be seen


def nouns(photographs: Sequence[Photograph]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the vocabulary, and for each photograph and keyword (n, k) whether it is right and whether it counts."""
    right = np.zeros((len(photographs), len(NOUNS)), bool)
    counted = np.ones_like(right)
    for row, photograph in enumerate(photographs):
        named = named_nouns(photograph.captions)
        alike = {noun for group in ALIKE if group & named for noun in group}
        right[row] = [noun in named for noun in NOUNS]
        counted[row] = [noun in named or noun not in alike for noun in NOUNS]
    return list(NOUNS), right, counted


def labels(photographs: Sequence[Photograph], names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the same for class names."""
    right = np.array([[name == photograph.label for name in names] for photograph in photographs])
    return list(names), right, np.ones_like(right)


def table(
    encoder: DualEncoder,
    photographs: Sequence[Photograph],
    vocabulary: list[str],
    right: np.ndarray,
    counted: np.ndarray,
) -> None:
    """Print precision, recall and the number of keywords for each cut-off."""
    embeddings = encoder.embed_images([photograph.path for photograph in photographs])
    places = {(name,): place for place, name in enumerate(vocabulary)}
    print("| cut-off | right | found | F0.5 | keywords a photograph |")
    print("|---:|---:|---:|---:|---:|")
    default = default_min_match(len(vocabulary))
    for cut_off in sorted((*CUT_OFFS, default)):
        chooser = KeywordChooser(encoder, list(places), cut_off)
        chosen = np.zeros_like(right)
        for row, keywords in enumerate(chooser.choose(embeddings)):
            chosen[row, [places[keyword.path] for keyword in keywords]] = True
        hits = (chosen & right).sum()
        precision = hits / max((chosen & counted).sum(), 1)
        recall = hits / right.sum()
        score = 1.25 * precision * recall / max(0.25 * precision + recall, 1e-9)
        mark = " (the default)" if cut_off == default else ""
        print(
            f"| {cut_off:.3f}{mark} | {precision:.2f} | {recall:.2f} | {score:.2f} | {chosen.sum() / len(chosen):.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="where perceptual hashes are cached")
    parser.add_argument("--part", choices=("calibration", "test"), default="test")
    options = parser.parse_args()
    encoder = DualEncoder.from_pretrained("mini")
    collection = Collection(options.collection, options.work)
    part = collection.parts[options.part]
    captioned = [photograph for photograph in part if len(photograph.captions) >= FEWEST_CAPTIONS]
    print(f"{len(captioned)} captioned photographs, {len(NOUNS)} nouns\n")
    table(encoder, captioned, *nouns(captioned))
    labeled = [photograph for photograph in part if photograph.label]
    names = sorted({name for several in collection.label_sets.values() for name in several})
    print(f"\n{len(labeled)} labeled photographs, {len(names)} class names\n")
    table(encoder, labeled, *labels(labeled, names))


if __name__ == "__main__":
    main()
