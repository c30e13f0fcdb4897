"""Finding pictures: by words, by example, by both added and subtracted, and by what captions and names say.

Shapes: n pictures, E dimensions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from beholder.album.filters import MATCH_ALL, Condition
from beholder.album.store import Picture, Store
from beholder.album.vector_index import VectorIndex
from beholder.errors import InvalidSetting

BACKGROUND = 1000  # pictures of the album that a query's scores are compared with
TEXT_HITS = 200  # pictures that are considered for their captions and names alone
TEXT_BOOST = 3.0  # standard deviations by which the best match of all words lifts a picture
# A picture fits if it stands so many standard deviations out of the album's own background and, where the model is
# calibrated, words match it so surely: `match` is at even odds, and an album is mostly pictures of something else.
FIT_THRESHOLD = 3.0
MATCH_THRESHOLD = 0.95
MIN_BACKGROUND = 20  # pictures that make a background


@dataclass(frozen=True)
class Query:
    """What is looked for: a vector (E,) of unit length, and the words in it, if any."""

    vector: np.ndarray
    words: str = ""
    text: np.ndarray | None = None  # the words' own vector, which `match` is about


@dataclass(frozen=True)
class SearchResult:
    """One picture that was found.

    Attributes:
        picture: which.
        score: by which results are ordered: the cosine, lifted where captions or names hold the words.
        cosine: between query and picture.
        match: how sure it is that the words fit, 0 to 1; None without words or a calibration.
        named: whether its caption or name holds the words.
        fits: whether it is so named or stands out from the album's other pictures.
    """

    picture: Picture
    score: float
    cosine: float
    match: float | None
    named: bool
    fits: bool


def combine_queries(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """One query (E,) of unit length from vectors (n, E) that are added and others that are subtracted.

    Raises:
        InvalidSetting: there is none to add, or they cancel out.
    """
    if not len(plus):
        raise InvalidSetting("nothing to look for: give words or a picture; what is subtracted comes off those")
    total = plus.mean(axis=0)
    if len(minus):
        total = total - minus.mean(axis=0)
    length = np.linalg.norm(total)
    if length < 1e-3:
        raise InvalidSetting("what is added and what is subtracted cancel out: nothing is left to look for")
    return (total / length).astype(np.float32)


def background(store: Store, vector_index: VectorIndex, most: int = BACKGROUND) -> np.ndarray:
    """Vectors (m, E) float32 of pictures spread evenly over the album, always the same ones for the same album."""
    model = vector_index.model
    end = "SELECT id FROM vector NOT INDEXED WHERE model = ? ORDER BY id"  # by id, not through all of the model's
    low, high = (store.scalar(f"{end} {way} LIMIT 1", (model.id,)) for way in ("ASC", "DESC"))
    if low is None:
        return np.zeros((0, model.embedding), np.float32)
    known = vector_index.background
    if known is not None and known[0] == (low, high):
        return known[1]
    found: dict[int, bytes] = {}
    for place in np.unique(np.linspace(low, high, min(most, high - low + 1)).astype(np.int64)).tolist():
        sql = "SELECT id, data FROM vector NOT INDEXED WHERE id >= ? AND model = ? ORDER BY id LIMIT 1"
        found |= dict(store.query(sql, (place, model.id)))
    data = np.frombuffer(b"".join(found.values()), np.float16)
    made = data.reshape(len(found), model.embedding).astype(np.float32)
    vector_index.background = (low, high), made
    return made


def search(
    store: Store, vector_index: VectorIndex, query: Query, top: int, condition: Condition = MATCH_ALL
) -> tuple[list[SearchResult], np.ndarray]:
    """The best pictures for one query, and their vectors (n, E); `match` is for the caller to add."""
    allowed = None
    if condition.sql != MATCH_ALL.sql:
        rows = store.query(
            f"""SELECT DISTINCT vector.id FROM picture JOIN content ON content.id = picture.content
            JOIN vector ON vector.content = content.id AND vector.model = ? WHERE {condition.sql} ORDER BY vector.id""",
            (vector_index.model.id, *condition.bound),
        )
        allowed = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    # (m,); not by BLAS, whose threads take longer to meet than this takes
    against = np.einsum("ij,j->i", background(store, vector_index), query.vector)
    middle, spread = median_and_spread(against)
    lifts = _text_matches(store, vector_index, query.words, condition)
    wanted = top
    while True:  # until enough of the nearest are still in the album
        ids, cosines = vector_index.search(query.vector, wanted, allowed)
        contents = store.contents_by_vector(ids.tolist())
        if len(contents) >= top or len(ids) < wanted:
            break
        wanted *= 2
    scored = {
        contents[vector]: float(cosine)
        for vector, cosine in zip(ids.tolist(), cosines, strict=True)
        if vector in contents
    }
    wanted_too = [content for content in lifts if content not in scored]
    vectors = store.vectors_by_content(vector_index.model.id, [*scored, *wanted_too])
    for content in lifts:
        if content in vectors:
            scored[content] = float(vectors[content] @ query.vector)
    order = sorted(scored, key=lambda content: -(scored[content] + spread * TEXT_BOOST * lifts.get(content, 0.0)))
    pictures = store.pictures(order, condition.sql, condition.bound)
    found: list[SearchResult] = []
    for content in order:
        if content in pictures and len(found) < top:
            score = scored[content] + spread * TEXT_BOOST * lifts.get(content, 0.0)
            stands_out = len(against) < MIN_BACKGROUND or score - middle > FIT_THRESHOLD * spread
            found.append(SearchResult(pictures[content], score, scored[content], None, content in lifts, stands_out))
    kept = [vectors[one.picture.content] for one in found]
    return found, np.stack(kept) if kept else np.zeros((0, len(query.vector)), np.float32)


def median_and_spread(against: np.ndarray) -> tuple[float, float]:
    """Median, and standard deviation as the quartiles of a normal distribution tell it: the hits move neither."""
    if not len(against):
        return 0.0, 0.0
    low, middle, high = np.percentile(against, [25, 50, 75])
    return float(middle), float(high - low) / 1.349


def _text_matches(store: Store, vector_index: VectorIndex, words: str, condition: Condition) -> dict[int, float]:
    """Contents whose captions, tags or names hold all the words, each with 0 to 1 for how well (BM25)."""
    terms = [f'"{word}"' for word in re.findall(r"\w+", words) if word.casefold() not in STOP_WORDS]
    if not terms:
        return {}
    rows = store.query(
        f"""SELECT content.id, min(rank) FROM
        (SELECT rowid AS row, bm25(words, 1.0, 2.0, 2.0) AS rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?)
        JOIN picture ON picture.id = row JOIN content ON content.id = picture.content
        WHERE {condition.sql} GROUP BY content.id""",
        (" ".join(terms), TEXT_HITS, *condition.bound),
    )
    best = min((rank for _, rank in rows), default=0.0)
    return {content: rank / best if best < 0 else 1.0 for content, rank in rows}


# Words that say nothing of a picture; a query's other words must all be in the caption or the name.
SMALL = """a an and are as at be by for from has in into is it its of on or our photo photograph picture that the their
this to was we with"""
STOP_WORDS = frozenset(SMALL.split())
