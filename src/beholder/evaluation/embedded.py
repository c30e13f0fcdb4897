"""Pictures to vectors for an evaluation: each computed once and kept in the cache.

So an evaluation that was interrupted goes on where it was, and another one on the same pictures begins with their
vectors. They lie by the model's fingerprint and the SHA-256 of a picture's bytes, so nothing can be taken for another.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beholder.errors import PictureError
from beholder.evaluation.report import Watcher
from beholder.tasks.dual_encoder import DualEncoder
from beholder.version import __version__
from beholder.weights.cache import cache_folder


class Embedded(NamedTuple):
    """Vectors (m, D) of the pictures that could be used, their ``rows`` (m,) in the call, and those that could not."""

    vectors: np.ndarray
    rows: np.ndarray
    failed: list[tuple[str, str]]


class KeptVectors:
    """A folder of vectors by the content of the picture.

    Args:
        encoder: whose vectors they are.
        kind: what else decides them, such as ``"features"``.
    """

    def __init__(self, encoder: DualEncoder, kind: str):
        of = hashlib.sha256(f"{encoder.fingerprint} {encoder.towers.engine} {kind} {__version__}".encode())
        self.folder = cache_folder() / "vectors" / of.hexdigest()[:24]

    def place(self, picture: Path) -> Path | None:
        """Where the vector of this picture lies or would lie; None where the picture can't be read."""
        try:
            with picture.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None
        return self.folder / digest[:2] / f"{digest}.npy"

    @staticmethod
    def read(place: Path | None) -> np.ndarray | None:
        """The vector that is kept there, if there is a whole one."""
        try:
            return None if place is None else np.load(place, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None

    @staticmethod
    def keep(place: Path, vector: np.ndarray) -> None:
        """Writes it aside and puts it in place; a full disk only means that nothing is kept."""
        aside = place.with_name(f".{place.name}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            np.save(aside, vector)
            aside.replace(place)
        except OSError:
            aside.unlink(missing_ok=True)


def embed_pictures(
    encoder: DualEncoder, pictures: Sequence[Path], watcher: Watcher, *, features: bool = False, exact: bool = False
) -> Embedded:
    """Vectors of all pictures that can be used.

    Args:
        encoder: computes those that are not kept yet.
        pictures: n paths.
        watcher: is told of each picture.
        features: the picture tower's own vectors, before the head.
        exact: decode large JPEGs in full.

    Raises:
        PictureError: none of the pictures can be used.
    """
    vectors: dict[int, np.ndarray] = {}
    failed: list[tuple[str, str]] = []
    stream = _vectors(encoder, pictures, features, exact)
    for row, vector, error in watcher.follow(stream, len(pictures)):
        if error is None:
            vectors[row] = vector
        else:
            watcher.failed(error)
            failed.append((error.name, error.reason))
    if not vectors:
        raise PictureError(str(pictures[0].parent), f"none of the {len(pictures)} pictures can be used")
    rows = sorted(vectors)
    return Embedded(np.stack([vectors[row] for row in rows]), np.array(rows), failed)


def _vectors(
    encoder: DualEncoder, pictures: Sequence[Path], features: bool, exact: bool
) -> Iterator[tuple[int, np.ndarray, PictureError | None]]:
    kept = KeptVectors(encoder, f"{'features' if features else 'embedding'}{' exact' if exact else ''}")
    none = np.zeros(0, np.float32)
    missing: list[tuple[int, Path | None]] = []
    for row, picture in enumerate(pictures):
        place = kept.place(picture)
        vector = kept.read(place)
        if vector is None:
            missing.append((row, place))
        else:
            yield row, vector, None
    todo = [pictures[row] for row, _ in missing]
    for embedded in encoder.stream_images(todo, features=features, exact=exact):
        row, place = missing[embedded.index]
        if embedded.embedding is None:
            yield row, none, embedded.error
            continue
        if place is not None:
            kept.keep(place, embedded.embedding)
        yield row, embedded.embedding, None
