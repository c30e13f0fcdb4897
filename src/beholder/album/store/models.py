"""The models whose embeddings an album holds."""

from __future__ import annotations

import time
from dataclasses import dataclass

from beholder.album.store.connection import Store


@dataclass(frozen=True)
class IndexedModel:
    """A model whose embeddings the album holds; ``folder`` and ``stamp`` are set if it is a folder of our format.

    Attributes:
        id: of the database row.
        fingerprint: of weights, preprocessing and tokenizer.
        name: under which the model is loaded.
        embedding: dimensions of its embeddings.
        folder: of the model's files.
        stamp: names, sizes and modification times of those files.
    """

    id: int
    fingerprint: str
    name: str
    embedding: int
    folder: str | None
    stamp: str | None


def list_models(store: Store) -> list[IndexedModel]:
    """Return all models; the one that completed an index run last comes first."""
    rows = store.query("SELECT id, fingerprint, name, embedding, folder, stamp FROM model ORDER BY used DESC, id")
    return [IndexedModel(*row) for row in rows]


def add_model(
    store: Store, fingerprint: str, name: str, embedding: int, folder: str | None, stamp: str | None
) -> IndexedModel:
    """Return the model with this fingerprint, added if it is new."""
    with store.transaction():
        store.execute(
            """INSERT INTO model (fingerprint, name, embedding, folder, stamp, used) VALUES (?, ?, ?, ?, ?, 0)
            ON CONFLICT (fingerprint) DO UPDATE SET name = excluded.name,
            folder = coalesce(excluded.folder, folder), stamp = coalesce(excluded.stamp, stamp)""",
            (fingerprint, name, embedding, folder, stamp),
        )
    return next(model for model in list_models(store) if model.fingerprint == fingerprint)


def mark_used(store: Store, model: IndexedModel) -> None:
    """Make this the model of searches that name none."""
    with store.transaction():
        store.execute("UPDATE model SET used = ? WHERE id = ?", (time.time(), model.id))
