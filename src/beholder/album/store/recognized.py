"""Text recognized in pictures. A picture without any has an empty text, so that it is not read again."""

from __future__ import annotations

from collections.abc import Sequence

from beholder.album.store.connection import Store
from beholder.album.store.descriptions import update_text_index


def unread(store: Store, roots: Sequence[tuple[bytes, bytes, bytes]]) -> list[int]:
    """Return the contents with files in some folders whose text has not been read.

    Args:
        store: the album.
        roots: as returned by `beholder.album.store.files.under`.
    """
    found: dict[int, None] = {}
    for root in roots:
        sql = """SELECT content FROM picture WHERE (path = ? OR (path > ? AND path < ?))
            AND content NOT IN (SELECT content FROM recognized) ORDER BY path, time"""
        found |= dict.fromkeys(row[0] for row in store.query(sql, root))
    return list(found)


def save_texts(store: Store, texts: Sequence[tuple[int, str]]) -> None:
    """Save texts by content; contents that are gone are passed over."""
    with store.transaction():
        for content, text in texts:
            sql = "INSERT OR REPLACE INTO recognized (content, text) SELECT id, ? FROM content WHERE id = ?"
            store.execute(sql, (text, content))
            update_text_index(store, "picture.content = ?", (content,))


def text_of(store: Store, content: int) -> str | None:
    """Return the text in a picture; None if it has not been read."""
    return store.scalar("SELECT text FROM recognized WHERE content = ?", (content,))
