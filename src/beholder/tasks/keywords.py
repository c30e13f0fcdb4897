"""Keywords for pictures from a vocabulary of the user's own, flat or hierarchical.

Shapes: n pictures, k keywords, E dimensions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import InvalidSetting, ModelError
from beholder.text.templates import fill_templates

if TYPE_CHECKING:
    from beholder.tasks.dual_encoder import DualEncoder

FITTING_KEYWORDS = 2  # of a vocabulary, on an average picture
MAX_KEYWORDS = 10  # per picture
MAX_VOCABULARY = 20_000


@dataclass(frozen=True)
class Keyword:
    """A keyword chosen for a picture.

    Attributes:
        path: from the top of the hierarchy down; of a flat vocabulary, the word alone.
        match: probability that it fits the picture.
    """

    path: tuple[str, ...]
    match: float

    @property
    def name(self) -> str:
        """The keyword itself."""
        return self.path[-1]


def read_vocabulary(file: Path) -> list[tuple[str, ...]]:
    """Return the keywords of a text file, each as its path from the top of the hierarchy.

    One keyword a line. Lower levels are indented by tabs, as Lightroom exports its keyword list (whose ``{synonyms}``
    are left out, and whose ``[categories]`` are levels), or written as a path: ``animals|dogs``.

    Raises:
        InvalidSetting: the file can't be read, is empty, or skips a level.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise InvalidSetting(f"--keywords-from {file}: can't be read as UTF-8 text ({error})") from None
    found: dict[tuple[str, ...], None] = {}
    above: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        word = " ".join(line.split()).strip("[]").strip()
        if not word or re.fullmatch(r"\{.*\}", word):
            continue
        depth = len(line) - len(line.lstrip("\t"))
        if depth > len(above):
            raise InvalidSetting(
                f"--keywords-from {file}, line {number}: indented by more than a level below the one before"
            )
        levels = [level.strip() for level in word.split("|") if level.strip()]
        above = [*above[:depth], *levels]
        found[tuple(above)] = None
    if not found:
        raise InvalidSetting(f"--keywords-from {file}: holds no keywords; write one a line")
    if len(found) > MAX_VOCABULARY:
        raise InvalidSetting(f"--keywords-from {file}: {len(found)} keywords; at most {MAX_VOCABULARY} are used")
    return list(found)


def default_min_match(keywords: int) -> float:
    """Return the match from which a keyword of so many is more likely to fit than not.

    `DualEncoder.match` is the probability at even odds, but of n keywords only about `FITTING_KEYWORDS` fit a picture.
    """
    return keywords / (keywords + FITTING_KEYWORDS)


class KeywordChooser:
    """Chooses the keywords of a vocabulary that fit pictures, by a calibrated dual encoder.

    Args:
        encoder: the model.
        vocabulary: keywords as paths.
        min_match: probability from which a keyword is chosen; by default, that of `default_min_match`.

    Raises:
        ModelError: the model is not calibrated.
    """

    def __init__(self, encoder: DualEncoder, vocabulary: list[tuple[str, ...]], min_match: float | None = None):
        if not encoder.calibrated:
            raise ModelError(f"{encoder.loaded.name}: this model has no calibration, which choosing keywords needs")
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.min_match = default_min_match(len(vocabulary)) if min_match is None else min_match
        self._embeddings = encoder.embed_texts(fill_templates(["a photo of {}"], [path[-1] for path in vocabulary]))

    def choose(self, embeddings: np.ndarray) -> list[list[Keyword]]:
        """Return the keywords of each picture, given its embedding (n, E), the best match first.

        Of a keyword and one below it in the hierarchy, the lower one is kept.
        """
        matches = self.encoder.match(embeddings, self._embeddings)  # (n, k)
        chosen = []
        for row in matches:
            fitting = [index for index in np.argsort(-row, kind="stable").tolist() if row[index] >= self.min_match]
            paths = [self.vocabulary[index] for index in fitting]
            lowest = [
                Keyword(path, float(row[index]))
                for index, path in zip(fitting, paths, strict=True)
                if not any(other[: len(path)] == path and other != path for other in paths)
            ]
            chosen.append(lowest[:MAX_KEYWORDS])
        return chosen
