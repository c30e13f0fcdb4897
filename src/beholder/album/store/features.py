"""What is derived from pictures and kept: appearances and hashes for near-duplicates, and coordinates on the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beholder.album.store.connection import Store
from beholder.album.store.models import IndexedModel


def appearances(store: Store, contents: Sequence[int]) -> dict[int, bytes]:
    """Return the appearances of some contents, of those that have one."""
    return dict(store.query_in("SELECT content, data FROM appearance WHERE content IN ({marks})", contents))


def save_appearances(store: Store, found: Mapping[int, bytes]) -> None:
    """Save appearances by content; contents that are gone are passed over."""
    _save(store, "appearance", found)


def pixel_hashes(store: Store, contents: Sequence[int]) -> dict[int, bytes]:
    """Return the hashes of the pixels of some contents, of those that have one."""
    return dict(store.query_in("SELECT content, data FROM pixel_hash WHERE content IN ({marks})", contents))


def save_pixel_hashes(store: Store, found: Mapping[int, bytes]) -> None:
    """Save hashes of pixels by content; contents that are gone are passed over."""
    _save(store, "pixel_hash", found)


def _save(store: Store, table: str, found: Mapping[int, bytes]) -> None:
    if not found:
        return
    with store.transaction():
        for content, data in found.items():
            sql = f"INSERT OR REPLACE INTO {table} (content, data) SELECT id, ? FROM content WHERE id = ?"
            store.execute(sql, (data, content))


def map_coordinates(store: Store, model: IndexedModel) -> dict[int, tuple[float, float]]:
    """Return the coordinates of each content that has them."""
    rows = store.query("SELECT content, x, y FROM place WHERE model = ?", (model.id,))
    return {content: (x, y) for content, x, y in rows}


def save_map_coordinates(store: Store, model: IndexedModel, points: Mapping[int, tuple[float, float]]) -> None:
    """Save coordinates by content, in place of older ones; contents that are gone are passed over."""
    with store.transaction():
        for content, (x, y) in points.items():
            store.execute(
                "INSERT OR REPLACE INTO place (model, content, x, y) SELECT ?, id, ?, ? FROM content WHERE id = ?",
                (model.id, x, y, content),
            )
