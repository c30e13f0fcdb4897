"""Captions, keywords, ratings and labels of contents, by source, and the full-text index over them.

The source is ``file`` for what the file's own metadata says and ``user`` for what a person writes in the album.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from beholder.album.store.connection import Store

FILE_SOURCE = "file"
USER_SOURCE = "user"  # takes precedence over all other sources


def describe(store: Store, content: int, source: str, caption: str | None, tags: Sequence[str]) -> None:
    """Set the caption and the keywords that one source gives a content, in place of its earlier ones."""
    with store.transaction():
        set_description(store, content, source, caption, tags)
        update_text_index(store, "picture.content = ?", (content,))


def set_description(store: Store, content: int, source: str, caption: str | None, tags: Sequence[str]) -> None:
    """As `describe`, inside a transaction and without the text index."""
    store.execute("DELETE FROM caption WHERE content = ? AND source = ?", (content, source))
    store.execute("DELETE FROM tag WHERE content = ? AND source = ?", (content, source))
    if caption:
        store.execute("INSERT INTO caption (content, source, text) VALUES (?, ?, ?)", (content, source, caption))
    for tag in dict.fromkeys(tags):
        store.execute("INSERT INTO tag (content, source, text) VALUES (?, ?, ?)", (content, source, tag))
    if source != FILE_SOURCE:
        _note_time(store, content, source)


def _note_time(store: Store, content: int, source: str) -> None:
    sql = "INSERT OR REPLACE INTO description (content, source, written) VALUES (?, ?, ?)"
    store.execute(sql, (content, source, time.time()))


def copy_descriptions(store: Store, content: int, target: int) -> None:
    """Copy the newer descriptions of one content, but for those from its file, to another, inside a transaction."""
    sql = """SELECT source, written FROM description AS mine WHERE content = ? AND NOT EXISTS (SELECT 1 FROM description
        WHERE content = ? AND source = mine.source AND written >= mine.written)"""
    for source, written in store.query(sql, (content, target)):
        for table, columns in (("caption", "text"), ("tag", "text"), ("mark", "rating, label")):
            store.execute(f"DELETE FROM {table} WHERE content = ? AND source = ?", (target, source))
            store.execute(
                f"INSERT INTO {table} (content, source, {columns}) SELECT ?, source, {columns} FROM {table} "
                "WHERE content = ? AND source = ?",
                (target, content, source),
            )
        sql = "INSERT OR REPLACE INTO description (content, source, written) VALUES (?, ?, ?)"
        store.execute(sql, (target, source, written))


# Contents that must outlive their files: a person, or another program than a file's author, described them.
DESCRIBED = " UNION ".join(
    f"SELECT content FROM {table} WHERE source != 'file'" for table in ("caption", "tag", "mark")
)


def remember_path(store: Store, path: bytes, content: int) -> None:
    """Remember that a described content was at this path, inside a transaction."""
    sql = "INSERT OR IGNORE INTO former_path (path, content) SELECT ?, content FROM description WHERE content = ?"
    store.execute(sql, (path, content))


def was_at(store: Store, path: bytes, content: int) -> bool:
    """Return whether a described content was at this path before."""
    sql = "SELECT 1 FROM former_path WHERE path = ? AND content = ?"
    return store.scalar(sql, (path, content)) is not None


def last_described_at(store: Store, path: bytes) -> int | None:
    """Return the content described last of those that were at this path, or at that of the JPEG of the same shot."""
    sql = """WITH spelled AS (SELECT ? AS path UNION SELECT picture FROM raw_companion WHERE path = ?)
        SELECT content FROM description WHERE content IN (
            SELECT content FROM former_path WHERE path IN spelled
            UNION SELECT content FROM picture WHERE path IN spelled AND path != ?)
        ORDER BY written DESC, content DESC LIMIT 1"""
    return store.scalar(sql, (path, path, path))


def kept_descriptions(store: Store, roots: Sequence[bytes] | None = None) -> list[int]:
    """Return the contents that have a description and no file any more.

    Args:
        store: the album.
        roots: only those whose files were all in these folders.
    """
    sql = f"""SELECT DISTINCT content FROM ({DESCRIBED}) AS described
        WHERE NOT EXISTS (SELECT 1 FROM picture WHERE picture.content = described.content)"""
    found = [row[0] for row in store.query(sql)]
    if roots is None:
        return found
    kept = []
    for content in found:
        paths = [row[0] for row in store.query("SELECT path FROM former_path WHERE content = ?", (content,))]
        inside = [any(path == root or path.startswith(root.rstrip(b"/") + b"/") for root in roots) for path in paths]
        if inside and all(inside):
            kept.append(content)
    return kept


def caption_by_source(store: Store, content: int, source: str) -> str | None:
    """Return the caption that one source gives a content."""
    return store.scalar("SELECT text FROM caption WHERE content = ? AND source = ?", (content, source))


def mark(store: Store, content: int, source: str, rating: int | None, label: str | None) -> None:
    """Set the rating and the label that one source gives a content, in place of its earlier ones; in a transaction."""
    store.execute("DELETE FROM mark WHERE content = ? AND source = ?", (content, source))
    if rating is not None or label is not None:
        sql = "INSERT INTO mark (content, source, rating, label) VALUES (?, ?, ?, ?)"
        store.execute(sql, (content, source, rating, label))
    _note_time(store, content, source)


def mark_by_source(store: Store, content: int, source: str) -> tuple[int | None, str | None]:
    """Return the rating and the label that one source gives a content."""
    rows = store.query("SELECT rating, label FROM mark WHERE content = ? AND source = ?", (content, source))
    return rows[0] if rows else (None, None)


def tags_by_source(store: Store, content: int, source: str) -> list[str]:
    """Return the keywords that one source gives a content."""
    sql = "SELECT text FROM tag WHERE content = ? AND source = ? ORDER BY text"
    return [row[0] for row in store.query(sql, (content, source))]


def update_text_index(store: Store, condition: str, bound: Sequence[Any]) -> None:
    """Write the full-text rows of the pictures that a condition selects, inside a transaction."""
    store.execute(f"DELETE FROM words WHERE rowid IN (SELECT id FROM picture WHERE {condition})", bound)
    store.execute(
        f"""INSERT INTO words (rowid, name, caption, tag, text) SELECT picture.id, to_tokens(name),
        to_tokens(concat_ws(' ', headline,
            (SELECT group_concat(text, ' ' ORDER BY source) FROM caption WHERE content = picture.content))),
        to_tokens(concat_ws(' ', city, country, creator,
            (SELECT concat_ws(' ', city, country) FROM located WHERE content = picture.content),
            (SELECT group_concat(text, ' ' ORDER BY source, text) FROM tag WHERE content = picture.content))),
        to_tokens(coalesce((SELECT text FROM recognized WHERE content = picture.content), ''))
        FROM picture JOIN content ON content.id = picture.content WHERE {condition}""",
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
        (SELECT rowid AS row, bm25(words, 1.0, 2.0, 2.0, 1.0) AS rank FROM words
            WHERE words MATCH ? ORDER BY rank LIMIT ?)
        JOIN picture ON picture.id = row JOIN content ON content.id = picture.content
        WHERE {where} GROUP BY content.id""",
        (expression, limit, *bound),
    )
    return dict(rows)
