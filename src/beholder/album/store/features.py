"""What is derived from pictures and kept: small grey images for near-duplicates, and coordinates on the map."""

from __future__ import annotations

from collections.abc import Mapping

from beholder.album.store.connection import Store
from beholder.album.store.models import IndexedModel


def grey_images(store: Store) -> dict[int, tuple[bytes, float]]:
    """Return the small grey image and the sharpness of each content that has them."""
    return {row[0]: (row[1], row[2]) for row in store.query("SELECT content, grey, sharpness FROM look")}


def save_grey_images(store: Store, images: Mapping[int, tuple[bytes, float]]) -> None:
    """Save small grey images and sharpness by content."""
    with store.transaction():
        for content, (grey, sharpness) in images.items():
            sql = "INSERT OR IGNORE INTO look (content, grey, sharpness) VALUES (?, ?, ?)"
            store.execute(sql, (content, grey, sharpness))


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
