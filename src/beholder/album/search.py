"""Search by text, by example images, by differences of both, and by the words of captions and names.

Shapes: n pictures, E dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beholder.album.filters import MATCH_ALL, Condition
from beholder.album.fulltext import match_expression, words_of
from beholder.album.picture import Picture
from beholder.album.store import pictures, vectors
from beholder.album.store.connection import Store
from beholder.album.store.descriptions import match_text
from beholder.album.vector_index import VectorIndex
from beholder.errors import InvalidSetting

BACKGROUND = 1000  # pictures of the album whose scores a query's results are compared with
TEXT_HITS = 200  # files considered for their captions and names alone
TEXT_BOOST = 3.0  # standard deviations added to the score of the best text match
# A picture fits if its score is this many standard deviations above the median of the background and, with a calibrated
# model, its match probability is this high: a match is at even odds, and most of an album shows something else.
FIT_THRESHOLD = 3.0
MATCH_THRESHOLD = 0.95
MIN_BACKGROUND = 20  # pictures


@dataclass(frozen=True)
class Query:
    """A query: an embedding (E,) of unit length, and the text in it, if any.

    Attributes:
        vector: the embedding of the whole query.
        words: searched for in captions and names.
        text: embedding (E,) of the words alone, which `SearchResult.match` refers to.
    """

    vector: np.ndarray
    words: str = ""
    text: np.ndarray | None = None


@dataclass(frozen=True)
class SearchResult:
    """One picture that a search found.

    Attributes:
        picture: the picture.
        score: by which results are ordered: the cosine, plus a boost if captions or names contain the words.
        cosine: similarity between query and picture.
        match: probability that the picture shows the words, 0 to 1; None without words or without a calibration.
        named: whether its caption or name contains the words.
        fits: whether they do, or the picture stands out from the rest of the album.
    """

    picture: Picture
    score: float
    cosine: float
    match: float | None
    named: bool
    fits: bool


def combine_queries(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """Combine embeddings (n, E) to add and embeddings to subtract into one query (E,) of unit length.

    Raises:
        InvalidSetting: there is nothing to add, or the sum is zero.
    """
    if not len(plus):
        raise InvalidSetting("nothing to search for: give words or a picture; --minus only subtracts from those")
    total = plus.mean(axis=0)
    if len(minus):
        total = total - minus.mean(axis=0)
    length = np.linalg.norm(total)
    if length < 1e-3:
        raise InvalidSetting("what is added and what is subtracted cancel out: nothing is left to search for")
    return (total / length).astype(np.float32)


def background(store: Store, index: VectorIndex, size: int = BACKGROUND) -> np.ndarray:
    """Return embeddings (m, E) float32 of pictures spread evenly over the album, the same ones for the same album."""
    ids = vectors.vector_id_range(store, index.model)
    if ids is None:
        return np.zeros((0, index.model.embedding), np.float32)
    if index.background is None or index.background[0] != ids:
        index.background = ids, vectors.spread_sample(store, index.model, *ids, size)
    return index.background[1]


def search(
    store: Store, index: VectorIndex, query: Query, top: int, condition: Condition = MATCH_ALL
) -> tuple[list[SearchResult], np.ndarray]:
    """Return the best results of a query, without `match`, and their embeddings (n, E)."""
    allowed = None
    if condition.sql != MATCH_ALL.sql:
        allowed = np.array(pictures.list_vectors(store, index.model.id, condition.sql, condition.bound), dtype=np.int64)
    # (m,); not by BLAS, whose threads take longer to synchronize than this takes
    scores = np.einsum("ij,j->i", background(store, index), query.vector)
    center, spread = median_and_spread(scores)
    boosts = _text_matches(store, query.words, condition)
    wanted = top
    while True:  # until enough of the nearest are still in the album
        ids, cosines = index.search(query.vector, wanted, allowed)
        contents = vectors.contents_by_vector(store, ids.tolist())
        if len(contents) >= top or len(ids) < wanted:
            break
        wanted *= 2
    scored = {
        contents[vector]: float(cosine)
        for vector, cosine in zip(ids.tolist(), cosines, strict=True)
        if vector in contents
    }
    text_only = [content for content in boosts if content not in scored]
    embeddings = vectors.vectors_by_content(store, index.model.id, [*scored, *text_only])
    for content in boosts:
        if content in embeddings:
            scored[content] = float(embeddings[content] @ query.vector)
    order = sorted(scored, key=lambda content: -(scored[content] + spread * TEXT_BOOST * boosts.get(content, 0.0)))
    known = pictures.get_pictures(store, order, condition.sql, condition.bound)
    found: list[SearchResult] = []
    for content in order:
        if content in known and len(found) < top:
            score = scored[content] + spread * TEXT_BOOST * boosts.get(content, 0.0)
            stands_out = len(scores) < MIN_BACKGROUND or score - center > FIT_THRESHOLD * spread
            found.append(SearchResult(known[content], score, scored[content], None, content in boosts, stands_out))
    kept = [embeddings[one.picture.content] for one in found]
    return found, np.stack(kept) if kept else np.zeros((0, len(query.vector)), np.float32)


def median_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Return the median, and the standard deviation estimated from the quartiles, which outliers do not affect."""
    if not len(values):
        return 0.0, 0.0
    low, center, high = np.percentile(values, [25, 50, 75])
    return float(center), float(high - low) / 1.349


def _text_matches(store: Store, words: str, condition: Condition) -> dict[int, float]:
    """Return the contents whose captions, keywords or names contain all words, with scores in (0, 1] by BM25."""
    terms = [word for word in words_of(words) if word not in STOP_WORDS]
    if not terms:
        return {}
    ranks = match_text(store, match_expression(terms), TEXT_HITS, condition.sql, condition.bound)
    best = min(ranks.values(), default=0.0)
    return {content: rank / best if best < 0 else 1.0 for content, rank in ranks.items()}


# Words that say nothing about a picture; all other words of a query must be in the caption or the name.
STOP_TEXT = """a an and are as at be by for from has in into is it its of on or our photo photograph picture that the
their this to was we with"""
STOP_WORDS = frozenset(STOP_TEXT.split())
