"""The album as a map: coordinates for each picture, kept in the album so that a picture stays where it was seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from beholder.album.clusters import Cluster, cluster, name_clusters
from beholder.album.map_layout import compute_layout, interpolate_layout
from beholder.album.picture import Picture
from beholder.album.store import features, vectors
from beholder.album.store.connection import Store
from beholder.album.store.models import IndexedModel
from beholder.errors import WriteFailed

MAX_REGIONS = 12
NEW = 0.2  # share of pictures without coordinates above which the whole map is laid out again


@dataclass(frozen=True)
class MapPoint:
    """A picture with its coordinates ``x`` and ``y`` within ±1."""

    picture: Picture
    x: float
    y: float


def map_coordinates(store: Store, model: IndexedModel) -> dict[int, tuple[float, float]]:
    """Return the coordinates of each embedded content; new ones are interpolated among those they are similar to.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    with store.snapshot():
        embeddings = vectors.all_vectors(store, model)
        found = {content: at for content, at in features.map_coordinates(store, model).items() if content in embeddings}
    new = [content for content in embeddings if content not in found]
    if not new:
        return found
    if len(new) > NEW * len(embeddings):
        found, new = {}, list(embeddings)
        points = compute_layout(_stacked(embeddings, new))
    else:
        known = list(found)
        coordinates = np.array([found[content] for content in known])
        points = interpolate_layout(_stacked(embeddings, new), _stacked(embeddings, known), coordinates)
    added = {content: (float(x), float(y)) for content, (x, y) in zip(new, points, strict=True)}
    with suppress(WriteFailed):  # on read-only media they are computed every time
        features.save_map_coordinates(store, model, added)
    return found | added


def find_regions(
    points: Sequence[MapPoint],
    embeddings: np.ndarray,
    embed: Callable[[list[str]], np.ndarray],
    count: int | None = None,
    keywords: Sequence[str] = (),
) -> list[Cluster]:
    """Divide the map into regions and name each by what distinguishes it (see `beholder.album.clusters`).

    Args:
        points: n of them.
        embeddings: of their pictures (n, E), unit length.
        embed: texts to embeddings.
        count: number of regions; by default one per keyword, or at most a dozen.
        keywords: candidate names.

    Raises:
        InvalidSetting: there are fewer pictures than regions.
        MissingExtra: scikit-learn is not installed.
    """
    if not points:
        return []
    wanted = count or min(len(keywords) or MAX_REGIONS, max(1, len(points) // 8))
    found = cluster(np.array([(point.x, point.y) for point in points]), wanted)
    return name_clusters(found, embeddings, [point.picture.caption for point in points], embed, keywords)


def _stacked(embeddings: dict[int, bytes], contents: list[int]) -> np.ndarray:
    """Return embeddings (n, E) float32."""
    halves = np.frombuffer(b"".join(embeddings[content] for content in contents), np.float16)
    return halves.reshape(len(contents), -1).astype(np.float32)
