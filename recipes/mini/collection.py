"""The collection of photographs that the dual encoder of `mini` learns from: its split, class names and sentences."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from beholder.files import atomic_file
from beholder.text.templates import ENSEMBLE, SINGLE, fill_templates
from dataset import class_names
from photographs import Photograph, perceptual_hashes, read_collection, split_by_source

WORK = Path("runs/mini")
VIEWS = 2
PROMPTS = (*SINGLE, "{}", "a picture of a {}.", *ENSEMBLE[1:])
CHINESE_PROMPTS = ("{}", "一张{}的照片", "{}的照片。", "图中有{}", *SINGLE)


def chinese_names() -> dict[str, str]:
    """Return the Chinese name of every class, by its English name."""
    lines = (Path(__file__).parent / "chinese_names.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


@dataclass(frozen=True)
class Collection:
    """A folder of photographs (`photographs.read_collection`), and the folder where what is computed is kept."""

    folder: Path
    work: Path = WORK

    @cached_property
    def photographs(self) -> list[Photograph]:
        """All photographs, in the order in which their features are kept."""
        return sorted(read_collection(self.folder), key=lambda photograph: photograph.path.name)

    @cached_property
    def parts(self) -> dict[str, list[Photograph]]:
        """The photographs of ``test``, ``calibration`` and ``training``."""
        hashes = perceptual_hashes([photograph.path for photograph in self.photographs], self.work / "hashes.json")
        return split_by_source(self.photographs, hashes)

    @cached_property
    def label_sets(self) -> dict[str, list[str]]:
        """The sorted class names of each source of labeled photographs."""
        labeled = [photograph for photograph in self.photographs if photograph.label]
        sources = sorted({photograph.source for photograph in labeled})
        return {source: sorted({one.label for one in labeled if one.source == source}) for source in sources}

    def english_sentences(self) -> list[str]:
        """Return every English sentence, the most important first: class names in `PROMPTS`, and captions."""
        names = [*class_names(), *(label for labels in self.label_sets.values() for label in labels)]
        held_out = [*self.parts["test"], *self.parts["calibration"]]
        captions = [caption for photograph in held_out for caption in photograph.captions]
        for part in (slice(2), slice(2, None)):
            captions += [caption for photograph in self.parts["training"] for caption in photograph.captions[part]]
        return list(dict.fromkeys([*fill_templates(PROMPTS, names), *captions]))

    def multilingual_sentences(self) -> list[str]:
        """Return every Chinese sentence and an English caption of each photograph, the most important first."""
        held_out = [*self.parts["test"], *self.parts["calibration"]]
        first = [caption for photograph in held_out for caption in photograph.chinese]
        first += [caption for photograph in self.parts["training"] for caption in photograph.chinese[:2]]
        translated = list(chinese_names().values())
        names = [prompt for template in CHINESE_PROMPTS for prompt in fill_templates([template], translated)]
        english = [caption for photograph in self.photographs for caption in photograph.captions[:1]]
        others = [caption for photograph in self.parts["training"] for caption in photograph.chinese[2:]]
        return list(dict.fromkeys([*first, *names, *english, *others]))

    @property
    def features(self) -> Path:
        """The folder of the image features."""
        return self.work / "features"

    def image_features(self, view: int) -> np.ndarray:
        """Return the features (n, D) of a view of all photographs, half precision; rows not yet computed are zero."""
        return np.load(self.features / f"view{view}.npy", mmap_mode="r")

    def vectors(self, tower: str) -> "SentenceVectors":
        """Return the vectors of a text tower that were computed so far."""
        return SentenceVectors.load(self.work / f"sentences-{tower}.npz")


@dataclass
class SentenceVectors:
    """Sentences and the vectors (n, F) of a frozen text tower, half precision."""

    sentences: list[str]
    rows: np.ndarray

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each sentence."""
        return {sentence: row for row, sentence in enumerate(self.sentences)}

    def __getitem__(self, sentences: list[str]) -> torch.Tensor:
        """Vectors (len(sentences), F), single precision."""
        return torch.from_numpy(self.rows[[self.index[sentence] for sentence in sentences]].astype(np.float32))

    def save(self, file: Path) -> None:
        """Write a file atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(json.dumps(self.sentences, ensure_ascii=False).encode(), np.uint8)
        with atomic_file(file) as scratch:
            np.savez(scratch, sentences=text, rows=self.rows)

    @classmethod
    def load(cls, file: Path) -> "SentenceVectors":
        """Read a file; one that is missing holds no sentence."""
        if not file.is_file():
            return cls([], np.zeros((0, 384), np.float16))
        with np.load(file) as saved:
            return cls(json.loads(saved["sentences"].tobytes()), saved["rows"])
