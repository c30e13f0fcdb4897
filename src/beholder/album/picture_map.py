"""The album as a map: a place for each picture, kept in the album, so that it stays where one has seen it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from beholder.album.clusters import Cluster, cluster, name_clusters
from beholder.album.map_layout import compute_layout, interpolate_layout
from beholder.album.store import IndexedModel, Picture, Store
from beholder.errors import WriteFailed

MOST_REGIONS = 12
NEW = 0.2  # share of pictures without a place above which all are laid out anew


@dataclass(frozen=True)
class MapPoint:
    """Where a picture lies: ``x`` and ``y`` within ±1."""

    picture: Picture
    x: float
    y: float


def map_coordinates(store: Store, model: IndexedModel) -> dict[int, tuple[float, float]]:
    """The place of each content that the model has seen; what is new lies among what it is like.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    sql = "SELECT content, x, y FROM place WHERE model = ?"
    with store.snapshot():
        found = {content: (x, y) for content, x, y in store.query(sql, (model.id,))}
        contents = [row[0] for row in store.query("SELECT content FROM vector WHERE model = ?", (model.id,))]
        new = [content for content in contents if content not in found]
        if not new:
            return found
        data = dict(store.query("SELECT content, data FROM vector WHERE model = ?", (model.id,)))
    if len(new) > NEW * len(contents):
        found, new = {}, contents
        made = compute_layout(_stacked(data, contents))
    else:
        known = list(found)
        made = interpolate_layout(_stacked(data, new), _stacked(data, known), np.array([found[each] for each in known]))
    found |= {content: (float(x), float(y)) for content, (x, y) in zip(new, made, strict=True)}
    with suppress(WriteFailed), store.transaction():  # where nothing may be written, it is made anew each time
        for content in new:
            store.connection.execute(
                """INSERT OR REPLACE INTO place (model, content, x, y) SELECT ?, id, ?, ? FROM content WHERE id = ?""",
                (model.id, *found[content], content),
            )
    return found


def regions(
    points: Sequence[MapPoint],
    vectors: np.ndarray,
    embed: Callable[[list[str]], np.ndarray],
    count: int | None = None,
    keywords: Sequence[str] = (),
) -> list[Cluster]:
    """Parts of the map, each with a name that sets it apart (see `beholder.album.clusters`).

    Args:
        points: n places.
        vectors: (n, E), unit length.
        embed: sentences to vectors.
        count: how many parts; by default one for each of the keywords, or a dozen at most.
        keywords: names to choose from.

    Raises:
        InvalidSetting: there are fewer pictures than parts.
        MissingExtra: scikit-learn is not installed.
    """
    if not points:
        return []
    wanted = count or min(len(keywords) or MOST_REGIONS, max(1, len(points) // 8))
    found = cluster(np.array([(point.x, point.y) for point in points]), wanted)
    return name_clusters(found, vectors, [point.picture.caption for point in points], embed, keywords)


def _stacked(data: dict[int, bytes], contents: list[int]) -> np.ndarray:
    """(n, E) float32."""
    halves = np.frombuffer(b"".join(data[content] for content in contents), np.float16)
    return halves.reshape(len(contents), -1).astype(np.float32)
