"""Near-duplicates: copies, other versions of the same picture, and bursts.

The embeddings propose pairs, and registration of small gray images decides: two different dogs have similar embeddings,
and two foggy mornings similar small images, but the details of one picture only fit on those of its own versions,
resized, cropped, recolored, faded or watermarked. A burst needs less: the same camera within seconds, and similar
embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from PIL import Image

from beholder.album.appearance import Appearance, appearance_of, pixel_hash
from beholder.album.best_copy import best_first
from beholder.album.image_registration import detail, registration_score
from beholder.album.picture import Picture
from beholder.album.store import features
from beholder.album.store.connection import Store
from beholder.errors import WriteFailed
from beholder.runtime.pipeline import map_ahead

DISTANCE = 0.18  # default maximum
DISTANCE_SCALE = 0.6  # distance at registration score 0, so that `DISTANCE` is a score of 0.7
WITH_DETAILS = 1.5  # gray levels by which a pixel differs from its surroundings, from which on registration is possible
UNIFORM = 3.0  # weight of 1 minus the mean of cosine and gray correlation, for pictures without such details
CANDIDATE_COSINE = 0.65
SAME_PIXELS = 0.95  # cosine of pictures that may have the same pixels
NEIGHBORS = 12  # that a picture is compared with
BURST_SECONDS = 10
BURST_COSINE = 0.85

Kind = Literal["copies", "similar", "burst"]


@dataclass(frozen=True)
class DuplicateGroup:
    """Near-duplicates.

    Attributes:
        paths: of all files, the one to keep first.
        pictures: what they show, each once, in the same order.
        distance: the largest between two that are joined; 0 if all have the same pixels.
        kind: ``copies`` of the same pixels, ``similar``, or ``burst`` if some are joined by time and camera only.
    """

    paths: tuple[str, ...]
    pictures: tuple[Picture, ...]
    distance: float
    kind: Kind


@dataclass(frozen=True)
class _Edge:
    one: int  # row
    other: int
    distance: float
    burst: bool = False


def find_duplicates(
    store: Store,
    pictures: list[Picture],
    vectors: np.ndarray,
    paths: dict[int, list[str]],
    distance: float = DISTANCE,
    mirrored: bool = False,
) -> list[DuplicateGroup]:
    """Return groups of near-duplicates, the closest first.

    Args:
        store: where appearances are kept.
        pictures: n of them, one for each content.
        vectors: their embeddings (n, E), unit length.
        paths: all files of each content.
        distance: maximum distance between two, from 0 for the same pixels to 1.
        mirrored: find mirror images, too.
    """
    edges = _edges(store, pictures, vectors, distance, mirrored)
    joined = list(range(len(pictures)))
    for edge in edges:
        joined[_root(joined, edge.one)] = _root(joined, edge.other)
    rows_of: dict[int, list[int]] = {}
    for row in range(len(pictures)):
        rows_of.setdefault(_root(joined, row), []).append(row)
    edges_of: dict[int, list[_Edge]] = {}
    for edge in edges:
        edges_of.setdefault(_root(joined, edge.one), []).append(edge)
    groups = {
        root: rows for root, rows in rows_of.items() if sum(len(paths[pictures[row].content]) for row in rows) > 1
    }
    several = [pictures[row] for rows in groups.values() if len(rows) > 1 for row in rows]
    appearances = load_appearances(store, several)
    found = []
    for root, rows in groups.items():
        best = best_first([pictures[row] for row in rows], appearances)
        own = edges_of.get(root, [])
        farthest = max((edge.distance for edge in own), default=0.0)
        burst = any(edge.burst for edge in own)
        kind: Kind = "burst" if burst else "similar" if farthest else "copies"
        files = tuple(path for picture in best for path in paths[picture.content])
        found.append(DuplicateGroup(files, tuple(best), round(farthest, 4), kind))
    return sorted(found, key=lambda group: (group.distance, group.paths))


def _edges(store: Store, pictures: list[Picture], vectors: np.ndarray, distance: float, mirrored: bool) -> list[_Edge]:
    """Return the pairs that are joined."""
    candidates = _candidates(vectors)
    same_pixels = _same_pixels(store, pictures, candidates)
    edges = [_Edge(one, other, 0.0) for one, other in same_pixels]
    if not distance:
        return edges
    rows = sorted({row for pair in candidates for row in pair})
    appearances = load_appearances(store, [pictures[row] for row in rows])
    for (one, other), cosine in candidates.items():
        if (one, other) in same_pixels:
            continue
        first, second = (appearances.get(pictures[row].content) for row in (one, other))
        if first is None or second is None:
            continue  # can't be read any more
        apart = max(_distance(first.gray, second.gray, cosine), 1e-4)  # 0 is for the same pixels
        if mirrored and apart > distance:
            flipped = second.gray.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            apart = min(apart, max(_distance(first.gray, flipped, cosine), 1e-4))
        burst = cosine >= BURST_COSINE and _same_moment(pictures[one], pictures[other])
        if apart <= distance or burst:
            edges.append(_Edge(one, other, apart, apart > distance))
    return edges


def _distance(one: Image.Image, other: Image.Image, cosine: float) -> float:
    """Return the distance between two pictures by their small gray images and the cosine of their embeddings."""
    if detail(one) >= WITH_DETAILS or detail(other) >= WITH_DETAILS:
        return DISTANCE_SCALE * (1 - registration_score(one, other))
    flat, reference = (_centered(image) for image in (one, other.resize(one.size, Image.Resampling.BOX)))
    return UNIFORM * (1 - (cosine + float(flat @ reference)) / 2)


def _centered(image: Image.Image) -> np.ndarray:
    """Return pixels (H·W,) float32 of mean 0 and unit length."""
    pixels = np.asarray(image, np.float32).ravel()
    pixels = pixels - pixels.mean()
    return pixels / max(float(np.linalg.norm(pixels)), 1e-6)


def _root(joined: list[int], row: int) -> int:
    while joined[row] != row:
        joined[row] = joined[joined[row]]
        row = joined[row]
    return row


def _candidates(vectors: np.ndarray) -> dict[tuple[int, int], float]:
    """Return pairs of rows that may be near-duplicates, with their cosines."""
    import faiss

    found: dict[tuple[int, int], float] = {}
    if len(vectors) < 2:
        return found
    for start in range(0, len(vectors), 4096):
        cosines, rows = faiss.knn(
            vectors[start : start + 4096], vectors, min(NEIGHBORS + 1, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
        )
        for place, column in zip(*np.where(cosines >= CANDIDATE_COSINE), strict=True):
            one, other = start + int(place), int(rows[place, column])
            if one != other:
                found[min(one, other), max(one, other)] = float(cosines[place, column])
    return found


def _same_pixels(
    store: Store, pictures: list[Picture], candidates: dict[tuple[int, int], float]
) -> set[tuple[int, int]]:
    """Return the candidates with exactly the same pixels, as when only metadata or the file format differ."""

    def may_be(pair: tuple[int, int]) -> bool:
        one, other = (pictures[row] for row in pair)
        return candidates[pair] >= SAME_PIXELS and (one.width, one.height) == (other.width, other.height)

    pairs = [pair for pair in candidates if may_be(pair)]
    wanted = [pictures[row] for row in sorted({row for pair in pairs for row in pair})]
    known = features.pixel_hashes(store, [picture.content for picture in wanted])
    missing = [picture for picture in wanted if picture.content not in known]
    hashes = zip(missing, map_ahead(pixel_hash, missing, 16), strict=True)
    made = {picture.content: digest for picture, digest in hashes if digest is not None}
    with suppress(WriteFailed):  # on read-only media they are made every time
        features.save_pixel_hashes(store, made)
    known |= made
    return {
        pair
        for pair in pairs
        if (first := known.get(pictures[pair[0]].content)) and first == known.get(pictures[pair[1]].content)
    }


def load_appearances(store: Store, pictures: Iterable[Picture]) -> dict[int, Appearance]:
    """Return the appearances of pictures by content, from the album or made and saved now."""
    wanted = {picture.content: picture for picture in pictures}
    known = features.appearances(store, list(wanted))
    missing = [picture for content, picture in wanted.items() if content not in known]
    made = {}
    for picture, appearance in zip(missing, map_ahead(appearance_of, missing, 32), strict=True):
        if appearance is not None:
            made[picture.content] = appearance.to_bytes()
    with suppress(WriteFailed):  # on read-only media they are made every time
        features.save_appearances(store, made)
    return {content: Appearance.from_bytes(data) for content, data in (known | made).items()}


def _same_moment(one: Picture, other: Picture) -> bool:
    if one.taken is None or other.taken is None or one.camera != other.camera:
        return False
    seconds = (datetime.fromisoformat(one.taken) - datetime.fromisoformat(other.taken)).total_seconds()
    return abs(seconds) <= BURST_SECONDS
