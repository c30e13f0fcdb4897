"""The place names of positions."""

from __future__ import annotations

from collections.abc import Sequence

from beholder.album.store.connection import Store
from beholder.album.store.descriptions import update_text_index


def unlocated(store: Store) -> list[tuple[int, float, float]]:
    """Return the contents whose position has no place yet, or another one than that of its place."""
    return store.query(
        """SELECT id, content.latitude, content.longitude FROM content LEFT JOIN located ON located.content = id
        WHERE content.latitude IS NOT NULL AND content.longitude IS NOT NULL AND (located.content IS NULL
            OR located.latitude != content.latitude OR located.longitude != content.longitude) ORDER BY id"""
    )


def save_places(store: Store, rows: Sequence[tuple[int, float, float, str, str, str]]) -> None:
    """Save places: content, latitude, longitude, city, country, and names in other languages."""
    with store.transaction():
        store.execute(
            "DELETE FROM located WHERE content IN (SELECT id FROM content WHERE latitude IS NULL OR longitude IS NULL)"
        )
        for row in rows:
            sql = """INSERT OR REPLACE INTO located (content, latitude, longitude, city, country, names)
                VALUES (?, ?, ?, ?, ?, ?)"""
            store.execute(sql, row)
            update_text_index(store, "picture.content = ?", row[:1])


def place_of(store: Store, content: int) -> tuple[str, str] | None:
    """Return the city and the country near which a picture was taken."""
    rows = store.query("SELECT city, country FROM located WHERE content = ?", (content,))
    return rows[0] if rows else None
