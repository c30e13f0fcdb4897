"""Captions and keywords of contents, by source, and the full-text index over them.

The source is ``file`` for what the file's own metadata says and ``user`` for what a person writes in the album.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beholder.album.store.connection import Store

FILE_SOURCE = "file"
USER_SOURCE = "user"  # takes precedence over all other sources


def describe(store: Store, content: int, source: str, caption: str | None, tags: Sequence[str]) -> None:
    """Set the caption and the keywords that one source gives a content, in place of its earlier ones."""
    with store.transaction():
        set_description(store, content, source, caption, tags)
        update_text_index(store, "content = ?", (content,))


def set_description(store: Store, content: int, source: str, caption: str | None, tags: Sequence[str]) -> None:
    """As `describe`, inside a transaction and without the text index."""
    store.execute("DELETE FROM caption WHERE content = ? AND source = ?", (content, source))
    store.execute("DELETE FROM tag WHERE content = ? AND source = ?", (content, source))
    if caption:
        store.execute("INSERT INTO caption (content, source, text) VALUES (?, ?, ?)", (content, source, caption))
    for tag in dict.fromkeys(tags):
        store.execute("INSERT INTO tag (content, source, text) VALUES (?, ?, ?)", (content, source, tag))


def caption_by_source(store: Store, content: int, source: str) -> str | None:
    """Return the caption that one source gives a content."""
    return store.scalar("SELECT text FROM caption WHERE content = ? AND source = ?", (content, source))


def tags_by_source(store: Store, content: int, source: str) -> list[str]:
    """Return the keywords that one source gives a content."""
    sql = "SELECT text FROM tag WHERE content = ? AND source = ? ORDER BY text"
    return [row[0] for row in store.query(sql, (content, source))]


def update_text_index(store: Store, condition: str, bound: Sequence[Any]) -> None:
    """Write the full-text rows of the pictures that a condition selects, inside a transaction."""
    store.execute(f"DELETE FROM words WHERE rowid IN (SELECT id FROM picture WHERE {condition})", bound)
    store.execute(
        f"""INSERT INTO words (rowid, name, caption, tag) SELECT id, to_tokens(name),
        to_tokens((SELECT group_concat(text, ' ' ORDER BY source) FROM caption WHERE content = picture.content)),
        to_tokens((SELECT group_concat(text, ' ' ORDER BY source, text) FROM tag WHERE content = picture.content))
        FROM picture WHERE {condition}""",
        bound,
    )


def match_text(store: Store, expression: str, limit: int, where: str, bound: Sequence[Any]) -> dict[int, float]:
    """Return the BM25 rank, lower is better, of the contents whose text matches an FTS5 expression.

    Args:
        store: the album.
        expression: of FTS5.
        limit: files considered, best first.
        where: condition over ``picture`` and ``content``.
        bound: its values.
    """
    rows = store.query(
        f"""SELECT content.id, min(rank) FROM
        (SELECT rowid AS row, bm25(words, 1.0, 2.0, 2.0) AS rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?)
        JOIN picture ON picture.id = row JOIN content ON content.id = picture.content
        WHERE {where} GROUP BY content.id""",
        (expression, limit, *bound),
    )
    return dict(rows)
