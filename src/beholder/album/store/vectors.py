"""Embeddings: one per content and model, in half precision.

Shapes: n vectors, E dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beholder.album.store.connection import Store
from beholder.album.store.models import IndexedModel


def count_vectors(store: Store, model: IndexedModel, after: int = 0) -> int:
    """Return the number of a model's vectors with an id greater than ``after``."""
    return store.scalar("SELECT count(*) FROM vector WHERE model = ? AND id > ?", (model.id, after))


def last_vector_id(store: Store) -> int:
    """Return the greatest id ever given to a vector."""
    return store.scalar("SELECT max(seq) FROM sqlite_sequence WHERE name = 'vector'") or 0


def count_malformed(store: Store, model: IndexedModel) -> int:
    """Return the number of a model's vectors of a wrong length in bytes."""
    sql = "SELECT count(*) FROM vector WHERE model = ? AND length(data) != ?"
    return store.scalar(sql, (model.id, 2 * model.embedding))


def has_vector(store: Store, sha256: bytes, model: int) -> bool:
    """Return whether the model has embedded the file with this hash."""
    sql = "SELECT 1 FROM vector JOIN content ON content.id = content WHERE sha256 = ? AND model = ?"
    return store.scalar(sql, (sha256, model)) is not None


def vector_by_hash(store: Store, sha256: bytes, model: int) -> np.ndarray | None:
    """Return the embedding (E,) float32 of the file with this hash, or None if the model has not embedded it."""
    sql = "SELECT data FROM vector JOIN content ON content.id = content WHERE sha256 = ? AND model = ?"
    data = store.scalar(sql, (sha256, model))
    return None if data is None else np.frombuffer(data, np.float16).astype(np.float32)


def vectors_by_content(store: Store, model: int, contents: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the embeddings (E,) float32 of some contents, those that the model has embedded."""
    sql = "SELECT content, data FROM vector WHERE model = ? AND content IN ({marks})"
    rows = store.query_in(sql, contents, (model,))
    return {content: np.frombuffer(data, np.float16).astype(np.float32) for content, data in rows}


def all_vectors(store: Store, model: IndexedModel) -> dict[int, bytes]:
    """Return all of a model's embeddings by content, each as E half-precision numbers."""
    return dict(store.query("SELECT content, data FROM vector WHERE model = ?", (model.id,)))


def contents_by_vector(store: Store, vectors: Sequence[int]) -> dict[int, int]:
    """Return the contents of some vector ids; those that are gone are left out."""
    return dict(store.query_in("SELECT id, content FROM vector WHERE id IN ({marks})", vectors))


def read_vectors(
    store: Store, model: IndexedModel, after: int = 0, last: int | None = None, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (n,) int64 in rising order and embeddings (n, E) float16.

    Args:
        store: the album.
        model: whose embeddings.
        after: only ids greater than this.
        last: only ids up to this one; None for no limit.
        most: maximum n; None for no limit.
    """
    rows = store.query(  # by the primary key: few rows lie beyond ``after``
        "SELECT id, data FROM vector NOT INDEXED WHERE model = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?",
        (model.id, after, 2**62 if last is None else last, -1 if most is None else most),
    )
    ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    data = np.frombuffer(b"".join(row[1] for row in rows), np.float16).reshape(len(rows), model.embedding)
    return ids, data


def vector_id_range(store: Store, model: IndexedModel) -> tuple[int, int] | None:
    """Return the least and the greatest id of a model's vectors, or None if it has none."""
    end = "SELECT id FROM vector NOT INDEXED WHERE model = ? ORDER BY id"  # by the primary key, not all of the model's
    low, high = (store.scalar(f"{end} {direction} LIMIT 1", (model.id,)) for direction in ("ASC", "DESC"))
    return None if low is None else (low, high)


def spread_sample(store: Store, model: IndexedModel, low: int, high: int, size: int) -> np.ndarray:
    """Return at most ``size`` embeddings (n, E) float32 whose ids are spread evenly between two ids."""
    found: dict[int, bytes] = {}
    sql = "SELECT id, data FROM vector NOT INDEXED WHERE id >= ? AND model = ? ORDER BY id LIMIT 1"
    for start in np.unique(np.linspace(low, high, min(size, high - low + 1)).astype(np.int64)).tolist():
        found |= dict(store.query(sql, (start, model.id)))
    return np.frombuffer(b"".join(found.values()), np.float16).reshape(len(found), -1).astype(np.float32)
