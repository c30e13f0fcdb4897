"""The split and the encoders' features that the training of `mini` and the comparison of its variants share."""

from pathlib import Path

import torch

from beholder.text.templates import ENSEMBLE, SINGLE, fill_templates
from beholder.weights import mini
from frozen_features import image_features, text_features
from locked_image_tuning import LockedImageData
from photographs import Photograph, by_hash, read_photographs

PREPROCESSING = mini.PREPROCESSING
SPLIT = ("test", "calibration", "training")
OTHER_COLLECTION = "coco"
TEST_PHOTOGRAPHS = 250
CALIBRATION_PHOTOGRAPHS = 60
VIEWS = 8
PROMPTS = (*SINGLE, "{}", "a picture of a {}.", *ENSEMBLE[1:])


def split(photographs: list[Photograph]) -> dict[str, list[Photograph]]:
    """Split into test (all of `OTHER_COLLECTION`, and others up to 250), calibration (60) and training (the rest)."""
    other = [photograph for photograph in photographs if photograph.source == OTHER_COLLECTION]
    main = by_hash([photograph for photograph in photographs if photograph.source != OTHER_COLLECTION])
    first = max(TEST_PHOTOGRAPHS - len(other), 0)
    second = first + CALIBRATION_PHOTOGRAPHS
    return {"test": other + main[:first], "calibration": main[first:second], "training": main[second:]}


def class_names() -> list[str]:
    """Return the 1,000 class names of ImageNet, in the order of the image encoder's classifier."""
    lines = (Path(__file__).parent / "imagenet_class_names.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]  # two names occur twice: the line number is the class


def load_features(file: Path, work: Path) -> tuple[LockedImageData, dict[str, torch.Tensor]]:
    """Return the features of all photographs but the test set, and the rows of each part (none for the test set)."""
    parts = split(read_photographs(file))
    photographs = parts["calibration"] + parts["training"]
    tower = mini.image_tower()
    classifier = tower.classifier
    if classifier is None:
        raise TypeError("the image tower came without its classifier")
    text, tokenizer = mini.text_tower(), mini.tokenizer()
    paths = [photograph.path for photograph in photographs]
    images = image_features(tower.folded(), PREPROCESSING, paths, VIEWS, work / f"features-{VIEWS}-views")
    sentences = [caption for photograph in photographs for caption in photograph.captions]
    captions = text_features(text, tokenizer, sentences)
    names = text_features(text, tokenizer, fill_templates(PROMPTS, class_names()))
    data = LockedImageData(
        torch.from_numpy(images),
        torch.from_numpy(captions).unflatten(0, (len(photographs), -1)),
        torch.from_numpy(names).unflatten(0, (-1, len(PROMPTS))),
        classifier.weight.detach(),
        classifier.bias.detach(),
    )
    calibration = len(parts["calibration"])
    rows = {
        "test": torch.arange(0),
        "calibration": torch.arange(calibration),
        "training": torch.arange(calibration, len(photographs)),
    }
    return data, rows
