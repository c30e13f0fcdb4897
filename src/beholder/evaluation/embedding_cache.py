"""Embeddings of an evaluation's pictures, each computed once and cached on disk.

An interrupted evaluation resumes where it was, and the next one on the same pictures reuses their embeddings. The cache
is keyed by the model's fingerprint and the SHA-256 of a picture's bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beholder.errors import PictureError
from beholder.evaluation.report import Progress
from beholder.files import atomic_file
from beholder.tasks.dual_encoder import DualEncoder
from beholder.tasks.pictures import FailedPicture
from beholder.version import __version__
from beholder.weights.cache import cache_folder


class EmbeddedImages(NamedTuple):
    """Embeddings (m, D) of the usable pictures, their ``rows`` (m,) in the call, and name and error of the others."""

    embeddings: np.ndarray
    rows: np.ndarray
    failed: list[tuple[str, str]]


class EmbeddingCache:
    """A folder of embeddings, keyed by the content of the picture.

    Args:
        encoder: the model.
        kind: anything else that determines an embedding, such as ``"features"``.
    """

    def __init__(self, encoder: DualEncoder, kind: str):
        key = hashlib.sha256(f"{encoder.fingerprint} {encoder.towers.engine} {kind} {__version__}".encode())
        self.folder = cache_folder() / "vectors" / key.hexdigest()[:24]

    def path(self, picture: Path) -> Path | None:
        """Return the path of the picture's embedding; None if the picture can't be read."""
        try:
            with picture.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):
            return None
        return self.folder / digest[:2] / f"{digest}.npy"

    @staticmethod
    def read(path: Path | None) -> np.ndarray | None:
        """Return a cached embedding, or None."""
        try:
            return None if path is None else np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None

    @staticmethod
    def write(path: Path, embedding: np.ndarray) -> None:
        """Cache an embedding; if the disk is full, it is not cached."""
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, durable=False) as scratch:
                np.save(scratch, embedding)


def embed_images(
    encoder: DualEncoder, pictures: Sequence[Path], progress: Progress, *, features: bool = False, exact: bool = False
) -> EmbeddedImages:
    """Return the embeddings of all usable pictures.

    Args:
        encoder: the model.
        pictures: n paths.
        progress: receives each picture.
        features: use the pooled features of the image tower, before its projection.
        exact: decode large JPEGs at full resolution.

    Raises:
        PictureError: none of the pictures can be used.
    """
    embeddings: dict[int, np.ndarray] = {}
    failed: list[tuple[str, str]] = []
    for row, result in progress.track(_stream(encoder, pictures, features, exact), len(pictures)):
        if isinstance(result, PictureError):
            progress.failed(result)
            failed.append((result.name, result.reason))
        else:
            embeddings[row] = result
    if not embeddings:
        raise PictureError(str(pictures[0].parent), f"none of the {len(pictures)} pictures can be used")
    rows = sorted(embeddings)
    return EmbeddedImages(np.stack([embeddings[row] for row in rows]), np.array(rows), failed)


def _stream(
    encoder: DualEncoder, pictures: Sequence[Path], features: bool, exact: bool
) -> Iterator[tuple[int, np.ndarray | PictureError]]:
    cache = EmbeddingCache(encoder, f"{'features' if features else 'embedding'}{' exact' if exact else ''}")
    missing: list[tuple[int, Path | None]] = []
    for row, picture in enumerate(pictures):
        path = cache.path(picture)
        embedding = cache.read(path)
        if embedding is None:
            missing.append((row, path))
        else:
            yield row, embedding
    uncached = [pictures[row] for row, _ in missing]
    for result in encoder.stream_images(uncached, features=features, exact=exact):
        row, path = missing[result.index]
        if isinstance(result, FailedPicture):
            yield row, result.error
            continue
        if path is not None:
            cache.write(path, result.embedding)
        yield row, result.embedding
