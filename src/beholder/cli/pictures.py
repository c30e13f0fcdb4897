"""What commands share over their pictures: finding them, embedding them with progress, naming those that failed."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import InvalidSetting

if TYPE_CHECKING:
    import numpy as np

    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.vision_language import VisionLanguageModel


def print_json(row: dict[str, Any]) -> None:
    """One line of standard output."""
    print(json.dumps(row, ensure_ascii=False), flush=True)


def fail(sentence: str) -> None:
    """One line of standard error."""
    print(f"beholder: {sentence}", file=sys.stderr)


def find_pictures(named: Sequence[str], allow_urls: bool = False) -> list[str]:
    """The pictures that the user named, folders replaced by the pictures below them; addresses stay as they are."""
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


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Warnings go to standard error as plain sentences."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"beholder: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def load_encoder(model: str, allow_pickle: bool = False, precision: str = "exact") -> DualEncoder:
    """The encoder that ``--model`` names, as near to single precision as ``--precision`` says."""
    from beholder.runtime.precision import check_precision
    from beholder.tasks.dual_encoder import DualEncoder

    return DualEncoder.from_pretrained(model, allow_pickle=allow_pickle, precision=check_precision(precision))


def load_vision_language_model(model: str, allow_pickle: bool = False, precision: str = "exact") -> VisionLanguageModel:
    """The vision-language model that ``--model`` names, as near to single precision as ``--precision`` says."""
    from beholder.runtime.precision import check_precision
    from beholder.tasks.vision_language import VisionLanguageModel

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return VisionLanguageModel.from_pretrained(model, allow_pickle=allow_pickle, precision=check_precision(precision))


class PictureRun:
    """Embeds pictures with a progress bar on standard error; afterwards ``failed`` counts those that could not be."""

    def __init__(self, encoder: DualEncoder, pictures: Sequence[str], *, exact: bool, allow_urls: bool):
        self.encoder = encoder
        self.pictures = pictures
        self.exact = exact
        self.allow_urls = allow_urls
        self.failed = 0

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """The name and the vector (E,) of each picture that could be used."""
        from rich.console import Console
        from rich.progress import track

        stream = self.encoder.stream_images(self.pictures, exact=self.exact, allow_urls=self.allow_urls)
        console = Console(stderr=True)
        quiet = not console.is_terminal or len(self.pictures) < 2
        shown = track(stream, "looking", total=len(self.pictures), console=console, transient=True, disable=quiet)
        for picture in shown:
            if picture.embedding is not None:
                yield picture.name, picture.embedding
            else:
                self.failed += 1
                fail(str(picture.error))

    @property
    def exit_code(self) -> int:
        """0: all done, 1: some failed."""
        return 1 if self.failed else 0
