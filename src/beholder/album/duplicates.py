"""Pictures that are nearly the same: copies, other sizes of one picture, and bursts; and which of them to keep.

Vectors alone call two different dogs alike, and a small grey picture of each alone calls two foggy mornings alike.
Both together tell: two pictures are nearly the same if the mean of both likenesses is high. A burst needs less: the
same camera within seconds, and vectors that are alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from beholder.album.picture import Picture
from beholder.album.store import features
from beholder.album.store.connection import Store
from beholder.errors import PictureError, WriteFailed
from beholder.pictures.read import read_picture
from beholder.runtime.pipeline import map_ahead

DISTANCE = 0.18  # 1 minus the mean of cosine and grey correlation, at most
CANDIDATE = 0.7  # cosine at least
NEAREST = 10  # others that a picture is compared with
BURST_SECONDS = 10
BURST_COSINE = 0.85
GREY = 16  # side of the small grey picture
SHARP_AT = 256  # side at which sharpness is compared
ABOUT_AS_LARGE = 0.9  # of the largest's pixels

Kind = Literal["copies", "similar", "burst"]


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures that are nearly the same.

    Attributes:
        paths: all files, the one to keep first.
        pictures: what they show, each once, in the same order.
        distance: the largest between two that are joined; 0 where all are copies, byte by byte.
        kind: ``copies``, ``similar``, or ``burst`` where only time, camera and vectors join some.
    """

    paths: tuple[str, ...]
    pictures: tuple[Picture, ...]
    distance: float
    kind: Kind


@dataclass(frozen=True)
class _Look:
    grey: np.ndarray  # (256,), mean 0, unit length
    sharpness: float


def find_duplicates(
    store: Store, pictures: list[Picture], vectors: np.ndarray, paths: dict[int, list[str]], distance: float = DISTANCE
) -> list[DuplicateGroup]:
    """Groups of pictures that are nearly the same, the most alike first.

    Args:
        store: where the small grey pictures are kept, once made.
        pictures: n of them, one for each content.
        vectors: (n, E), unit length.
        paths: all files of each content.
        distance: how far apart two may be, from 0 to 1.
    """
    candidates = _alike(vectors)
    looks = _looks(store, [pictures[row] for row in sorted({row for pair in candidates for row in pair})])
    joined = list(range(len(pictures)))
    edges: list[tuple[int, int, float, bool]] = []
    for (one, other), cosine in candidates.items():
        first, second = (looks.get(pictures[row].content) for row in (one, other))
        if first is None or second is None:
            continue  # can't be read any more
        apart = 1 - (cosine + float(first.grey @ second.grey)) / 2
        burst = cosine >= BURST_COSINE and _same_moment(pictures[one], pictures[other])
        if apart <= distance or burst:
            edges.append((one, other, max(apart, 0.0), apart > distance))
            joined[_root(joined, one)] = _root(joined, other)
    groups: dict[int, list[int]] = {}
    for row in range(len(pictures)):
        groups.setdefault(_root(joined, row), []).append(row)
    farthest: dict[int, tuple[float, bool]] = {}
    for one, _, apart, burst in edges:
        known = farthest.get(_root(joined, one), (0.0, False))
        farthest[_root(joined, one)] = (max(known[0], apart), known[1] or burst)
    found = []
    for root, rows in groups.items():
        best = best_first([pictures[row] for row in rows], looks)
        ordered = [path for picture in best for path in paths[picture.content]]
        if len(ordered) > 1:
            apart, burst = farthest.get(root, (0.0, False))
            kind: Kind = "copies" if len(rows) == 1 else "burst" if burst else "similar"
            found.append(DuplicateGroup(tuple(ordered), tuple(best), round(apart, 4), kind))
    return sorted(found, key=lambda group: (group.distance, group.paths))


def best_first(pictures: Iterable[Picture], looks: dict[int, _Look]) -> list[Picture]:
    """The one to keep first: of those about as large as the largest the sharpest, then the larger ones."""
    group = list(pictures)
    largest = max(picture.width * picture.height for picture in group)

    def rank(picture: Picture) -> tuple[bool, float, int, str]:
        pixels = picture.width * picture.height
        large = pixels >= ABOUT_AS_LARGE * largest
        look = looks.get(picture.content)
        sharp = look.sharpness if look is not None and large else float(pixels)
        return (not large, -sharp, -picture.size, picture.path)

    return sorted(group, key=rank)


def _root(joined: list[int], row: int) -> int:
    while joined[row] != row:
        joined[row] = joined[joined[row]]
        row = joined[row]
    return row


def _alike(vectors: np.ndarray) -> dict[tuple[int, int], float]:
    """Pairs of rows that may be nearly the same, with their cosines."""
    import faiss

    found: dict[tuple[int, int], float] = {}
    if len(vectors) < 2:
        return found
    for start in range(0, len(vectors), 4096):
        cosines, rows = faiss.knn(
            vectors[start : start + 4096], vectors, min(NEAREST + 1, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
        )
        for place, column in zip(*np.where(cosines >= CANDIDATE), strict=True):
            one, other = start + int(place), int(rows[place, column])
            if one != other:
                found[min(one, other), max(one, other)] = float(cosines[place, column])
    return found


def _looks(store: Store, pictures: list[Picture]) -> dict[int, _Look]:
    """What the pixels look like in small, from the album or made now and kept there."""
    found: dict[int, _Look] = {}
    known = features.grey_images(store)
    missing = [picture for picture in pictures if picture.content not in known]
    looks = zip(missing, map_ahead(_look, missing, 32), strict=True)
    made = {picture.content: look for picture, look in looks if look is not None}
    if made:
        with suppress(WriteFailed):  # on read-only media they are made every time
            features.save_grey_images(store, made)
        known |= made
    for picture in pictures:
        if picture.content in known:
            grey, sharpness = known[picture.content]
            flat = np.frombuffer(grey, np.uint8).astype(np.float32)
            flat -= flat.mean()
            found[picture.content] = _Look(flat / max(float(np.linalg.norm(flat)), 1e-6), sharpness)
    return found


def _look(picture: Picture) -> tuple[bytes, float] | None:
    from PIL import Image

    try:
        whole = read_picture(Path(picture.path), reduce_to=SHARP_AT).convert("L")
    except PictureError:
        return None
    small = whole.resize((GREY, GREY), Image.Resampling.BOX).tobytes()
    scale = SHARP_AT / max(whole.size)
    size = (max(round(whole.width * scale), 3), max(round(whole.height * scale), 3))
    pixels = np.asarray(whole.resize(size, Image.Resampling.BICUBIC), np.float32)
    edges = 4 * pixels[1:-1, 1:-1] - pixels[:-2, 1:-1] - pixels[2:, 1:-1] - pixels[1:-1, :-2] - pixels[1:-1, 2:]
    return small, float(edges.var())


def _same_moment(one: Picture, other: Picture) -> bool:
    if one.taken is None or other.taken is None or one.camera != other.camera:
        return False
    seconds = (datetime.fromisoformat(one.taken) - datetime.fromisoformat(other.taken)).total_seconds()
    return abs(seconds) <= BURST_SECONDS
