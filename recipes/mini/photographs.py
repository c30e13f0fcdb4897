"""Photographs with captions, labels and questions, and a split that is the same for everyone.

The split depends on the hash of each file name alone, so adding a photograph never moves another one by more than one
position. Near-duplicates of a test photograph (siblings of a series, other crops of the same picture) are found by a
perceptual hash and left out of training.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beholder.pictures.read import read_picture
from beholder.runtime.pipeline import map_ahead
from beholder.text.json_lines import read_json_lines

TEST = {"flickr8k": 250, "coco": 250, "web": 250, "daquar": 60}  # test photographs of each source
TEST_LABELS = 0.2  # share of the labeled photographs of a source
CALIBRATION = {"flickr8k": 100, "coco": 50, "web": 100}  # calibration photographs of each source, after the test set
CALIBRATION_LABELS = 0.1
HASH_SIDE = 8
NEAR = 8  # photographs whose 64-bit hashes differ in at most this many bits are near-duplicates


@dataclass(frozen=True)
class Photograph:
    """A photograph with its annotations.

    Attributes:
        path: Path of the image file.
        captions: Captions in English.
        source: Name of the collection.
        chinese: Captions in Chinese.
        label: Class name, in collections of labeled photographs.
        questions: Pairs of question and answer.
    """

    path: Path
    captions: tuple[str, ...]
    source: str
    chinese: tuple[str, ...] = ()
    label: str = ""
    questions: tuple[tuple[str, str], ...] = ()


def read_photographs(file: Path) -> list[Photograph]:
    """Read JSON lines with ``image`` (relative to the file), ``captions`` (a list) and, optionally, ``source``.

    Raises:
        InvalidSetting: The file is missing, or a line is invalid; the message contains its number.
    """

    def captioned(row: dict[str, Any]) -> Photograph:
        if not isinstance(row["captions"], list):
            raise TypeError("captions must be a list")
        photograph = _photograph(file.parent, row)
        return replace(photograph, captions=tuple(row["captions"]), chinese=tuple(row.get("captions_zh", ())))

    return list(read_json_lines(file, captioned, "image and captions (a list)"))


def read_collection(folder: Path) -> list[Photograph]:
    """Read ``captions.jsonl`` and, where they exist, ``labels.jsonl`` and ``questions.jsonl`` of a folder.

    Each line has an ``image`` (relative to the folder) and a ``source``, and either ``captions`` and optionally
    ``captions_zh``, or a ``label``, or a ``question`` and its ``answer`` (lines of the same photograph are merged).

    Raises:
        InvalidSetting: A line is invalid; the message contains its number.
    """

    def labeled(row: dict[str, Any]) -> Photograph:
        return replace(_photograph(folder, row), label=row["label"])

    def asked(row: dict[str, Any]) -> tuple[Photograph, tuple[str, str]]:
        return _photograph(folder, row), (row["question"], row["answer"])

    photographs = read_photographs(folder / "captions.jsonl")
    if (labels := folder / "labels.jsonl").is_file():
        photographs += read_json_lines(labels, labeled, "image and label")
    if (questions := folder / "questions.jsonl").is_file():
        questions_by_photograph: dict[Photograph, list[tuple[str, str]]] = {}
        for photograph, pair in read_json_lines(questions, asked, "image, question and answer"):
            questions_by_photograph.setdefault(photograph, []).append(pair)
        photographs += [
            replace(photograph, questions=tuple(pairs)) for photograph, pairs in questions_by_photograph.items()
        ]
    return photographs


def _photograph(folder: Path, row: Mapping[str, Any]) -> Photograph:
    return Photograph(folder / row["image"], (), row.get("source", ""))


def by_hash(photographs: Sequence[Photograph]) -> list[Photograph]:
    """Shuffle by a hash of the file name, so that adding or removing a photograph never changes the others' order."""
    return sorted(photographs, key=lambda photograph: hashlib.sha256(photograph.path.name.encode()).hexdigest())


def split_by_source(
    photographs: Sequence[Photograph], hashes: Mapping[Path, np.ndarray], held_out: Sequence[np.ndarray] = ()
) -> dict[str, list[Photograph]]:
    """Split every source into ``test``, ``calibration`` and ``training``.

    Args:
        photographs: Photographs of `read_collection`.
        hashes: Perceptual hash of each path (`perceptual_hashes`).
        held_out: Hashes of further photographs whose near-duplicates must not be trained on.

    Returns:
        The three parts. Near-duplicates of test photographs are excluded from the other two.
    """
    parts: dict[str, list[Photograph]] = {"test": [], "calibration": [], "training": []}
    for source in sorted({photograph.source for photograph in photographs}):
        own = by_hash([photograph for photograph in photographs if photograph.source == source])
        labeled = bool(own[0].label)
        test = round(TEST_LABELS * len(own)) if labeled else TEST.get(source, 0)
        calibration = round(CALIBRATION_LABELS * len(own)) if labeled else CALIBRATION.get(source, 0)
        parts["test"] += own[:test]
        parts["calibration"] += own[test : test + calibration]
        parts["training"] += own[test + calibration :]
    unseen = np.array([*(hashes[photograph.path] for photograph in parts["test"]), *held_out], np.uint64)
    for part in ("calibration", "training"):
        near = near_duplicates(np.array([hashes[one.path] for one in parts[part]], np.uint64), unseen)
        parts[part] = [one for one, left_out in zip(parts[part], near, strict=True) if not left_out]
    return parts


def near_duplicates(hashes: np.ndarray, others: np.ndarray, near: int = NEAR) -> np.ndarray:
    """Return a mask (n,) of the hashes that differ from at least one of ``others`` in at most ``near`` bits."""
    if not len(hashes) or not len(others):
        return np.zeros(len(hashes), bool)
    return np.concatenate(
        [
            (np.bitwise_count(part[:, None] ^ others[None, :]) <= near).any(axis=1)
            for part in np.array_split(hashes, len(hashes) // 1024 + 1)
        ]
    )


def perceptual_hash(picture: Image.Image) -> np.uint64:
    """Return 64 bits, each of which is set if a pixel of a gray 9 × 8 thumbnail is brighter than its right neighbor.

    Source: the difference hash of N. Krawetz, *Kind of Like That* (2013).
    """
    small = np.asarray(picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.LANCZOS), np.int16)
    return np.packbits(small[:, :-1] > small[:, 1:]).view(">u8")[0].astype(np.uint64)


def perceptual_hashes(paths: Sequence[Path], cache: Path) -> dict[Path, np.ndarray]:
    """Return the hash of every picture, computed once and cached by name in a JSON file."""
    cached: dict[str, str] = json.loads(cache.read_text("utf-8")) if cache.is_file() else {}
    missing = [path for path in paths if path.name not in cached]
    for path, found in map_ahead(lambda path: (path, perceptual_hash(read_picture(path))), missing, ahead=16):
        cached[path.name] = f"{int(found):016x}"
    if missing:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(cached), "utf-8")
    return {path: np.uint64(int(cached[path.name], 16)) for path in paths}
