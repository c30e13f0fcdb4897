"""The split of the photographs that the bridge of `mini` is trained on, and the names of ImageNet's classes."""

from pathlib import Path

from photographs import Photograph, by_hash

OTHER_COLLECTION = "coco"
TEST_PHOTOGRAPHS = 250
CALIBRATION_PHOTOGRAPHS = 60


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
