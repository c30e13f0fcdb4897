"""What commands share over their input: finding pictures, loading models, and embedding with progress."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.cli.output import print_message, track
from beholder.errors import InvalidSetting

if TYPE_CHECKING:
    import numpy as np

    from beholder.pictures.limits import Limits
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.vision_language import VisionLanguageModel


def find_pictures(named: Sequence[str], allow_urls: bool = False) -> list[str]:
    """Return the named pictures, with folders replaced by the pictures in them; addresses stay as they are.

    Raises:
        InvalidSetting: a folder holds no picture.
    """
    from beholder.pictures.walk import walk

    found: list[str] = []
    for name in named:
        if allow_urls and name.startswith(("http://", "https://")):
            found.append(name)
        elif os.path.isdir(name):  # noqa: PTH112 (Path.is_dir raises on names too long to be one)
            inside = [str(path) for path in walk(Path(name))]
            if not inside:
                raise InvalidSetting(f"{name}: no pictures in this folder")
            found.extend(inside)
        else:
            found.append(name)
    return found


def reported_name(source: str) -> str:
    """Return the name of a picture in JSON and in files: its path as it is, or its address without credentials."""
    from beholder.pictures.read import display_name

    return display_name(source, 0) if "://" in source else source


def picture_limits(max_megapixels: float | None, max_bytes: int | None) -> Limits:
    """Return the limits of ``--max-megapixels`` and ``--max-bytes``.

    Raises:
        InvalidSetting: one is not above 0.
    """
    from beholder.pictures.limits import Limits

    given = {"megapixels": max_megapixels, "megabytes": None if max_bytes is None else max_bytes / 1e6}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def load_encoder(model: str, allow_pickle: bool = True, precision: str = "exact") -> DualEncoder:
    """Load the dual encoder of ``--model`` in the precision of ``--precision``."""
    from beholder.runtime.precision import check_precision
    from beholder.tasks.dual_encoder import DualEncoder

    return DualEncoder.from_pretrained(model, allow_pickle=allow_pickle, precision=check_precision(precision))


def load_vision_language_model(model: str, allow_pickle: bool = True, precision: str = "exact") -> VisionLanguageModel:
    """Load the vision-language model of ``--model`` in the precision of ``--precision``."""
    from beholder.runtime.precision import check_precision
    from beholder.tasks.vision_language import VisionLanguageModel

    return VisionLanguageModel.from_pretrained(model, allow_pickle=allow_pickle, precision=check_precision(precision))


class EmbeddingRun:
    """Embeds pictures with a progress bar; afterwards, ``failed`` counts those that could not be used."""

    def __init__(
        self,
        encoder: DualEncoder,
        pictures: Sequence[str],
        *,
        exact: bool,
        allow_urls: bool = False,
        limits: Limits | None = None,
    ):
        self.encoder = encoder
        self.pictures = pictures
        self.exact = exact
        self.allow_urls = allow_urls
        self.limits = limits
        self.failed = 0

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and embedding (E,) of each picture that can be used; the others are named on standard error."""
        stream = self.encoder.stream_images(
            self.pictures, exact=self.exact, allow_urls=self.allow_urls, limits=self.limits
        )
        for picture in track(stream, "embedding", len(self.pictures)):
            if picture.error is None:
                yield reported_name(self.pictures[picture.index]), picture.embedding
            else:
                self.failed += 1
                print_message(str(picture.error))

    @property
    def exit_code(self) -> int:
        """0 if all pictures could be used, 1 otherwise."""
        return 1 if self.failed else 0
