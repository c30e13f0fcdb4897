"""Pictures as a search or a listing returns them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from beholder.album.picture import Picture
from beholder.album.store.connection import BATCH, Store
from beholder.album.store.descriptions import USER_SOURCE

FROM = "FROM picture JOIN content ON content.id = picture.content"
# What a person says in the album comes before what the file says.
RATING, LABEL = (
    f"coalesce((SELECT {column} FROM mark WHERE mark.content = content.id), content.{column})"
    for column in ("rating", "label")
)
HAVE_FILES = "SELECT content FROM picture"  # other contents are kept for their descriptions alone
ORDERS = {
    "path": "min(picture.path)",
    "newest": "content.taken IS NULL, content.taken DESC, min(picture.path)",
    "oldest": "content.taken IS NULL, content.taken, min(picture.path)",
}


def count_pictures(store: Store) -> int:
    """Return the number of pictures; copies count once."""
    return store.scalar("SELECT count(DISTINCT content) FROM picture")


def get_pictures(
    store: Store, contents: Sequence[int], where: str = "1", bound: Sequence[Any] = ()
) -> dict[int, Picture]:
    """Return one picture for each content: of its files that meet a condition, the first by path."""
    found: dict[int, Picture] = {}
    for start in range(0, len(contents), BATCH):
        some = contents[start : start + BATCH]
        rows = store.query(
            f"""SELECT picture.path, content.id, width, height, size, taken, camera,
            (SELECT text FROM caption WHERE caption.content = content.id
                ORDER BY source != '{USER_SOURCE}', source LIMIT 1),
            (SELECT json_group_array(DISTINCT text) FROM tag WHERE tag.content = content.id),
            {RATING}, {LABEL},
            coalesce(nullif(concat_ws(', ', city, country), ''),
                (SELECT concat_ws(', ', city, country) FROM located WHERE located.content = content.id)),
            time
            {FROM} WHERE content.id IN ({", ".join("?" * len(some))}) AND ({where}) ORDER BY picture.path DESC""",
            (*some, *bound),
        )
        for path, content, width, height, size, taken, camera, caption, tags, rating, label, place, time in rows:
            found[content] = Picture(
                *(os.fsdecode(path), content, width, height, size, taken, camera, caption, tuple(json.loads(tags))),
                rating=rating,
                label=label,
                place=place,
                time=None if time < 0 else time / 1000,
            )
    return found


def list_contents(store: Store, where: str, bound: Sequence[Any], order: str) -> list[int]:
    """Return the contents that meet a condition; ``order`` is a key of `ORDERS`."""
    rows = store.query(
        f"SELECT content.id {FROM} WHERE {where} GROUP BY content.id ORDER BY {ORDERS[order]}, picture.time", bound
    )
    return [row[0] for row in rows]


class LayoutRow(NamedTuple):
    """What a page needs to lay out a picture: ``ratio`` is its width in percent of its height."""

    content: int
    ratio: int
    month: str | None


def list_layout(store: Store, where: str, bound: Sequence[Any], order: str) -> list[LayoutRow]:
    """Return the layout of the contents that meet a condition; ``order`` is a key of `ORDERS`."""
    rows = store.query(
        f"""SELECT content.id, max(1, 100 * width / max(1, height)), substr(taken, 1, 7) {FROM} WHERE {where}
        GROUP BY content.id ORDER BY {ORDERS[order]}, picture.time""",
        bound,
    )
    return [LayoutRow(*row) for row in rows]


def list_vectors(store: Store, model: int, where: str, bound: Sequence[Any]) -> list[int]:
    """Return the ids, rising, of a model's vectors whose pictures meet a condition."""
    sql = f"""SELECT DISTINCT vector.id {FROM} JOIN vector ON vector.content = content.id AND vector.model = ?
        WHERE {where} ORDER BY vector.id"""
    return [row[0] for row in store.query(sql, (model, *bound))]


def list_paths(store: Store, where: str, bound: Sequence[Any]) -> dict[int, list[str]]:
    """Return the paths of each content that meet a condition, the shortest first."""
    found: dict[int, list[str]] = {}
    sql = f"SELECT content.id, picture.path {FROM} WHERE {where} ORDER BY length(picture.path), picture.path"
    for content, path in store.query(sql, bound):
        found.setdefault(content, []).append(os.fsdecode(path))
    return found


def paths_of(store: Store, content: int) -> list[bytes]:
    """Return the paths of all files of a content, in order."""
    return [row[0] for row in store.query("SELECT path FROM picture WHERE content = ? ORDER BY path", (content,))]


def content_ids(store: Store, paths: Sequence[bytes]) -> dict[bytes, int]:
    """Return the contents of some paths; those that are not in the album are left out."""
    return dict(store.query_in("SELECT path, content FROM picture WHERE path IN ({marks})", paths))


def known_contents(store: Store, contents: Sequence[int]) -> list[int]:
    """Return the contents that have files, of some."""
    return [
        row[0] for row in store.query_in("SELECT DISTINCT content FROM picture WHERE content IN ({marks})", contents)
    ]


def sha256_of(store: Store, content: int) -> bytes | None:
    """Return the SHA-256 of a content's files, or None if it is not in the album."""
    return store.scalar("SELECT sha256 FROM content WHERE id = ?", (content,))


def count_files_without_content(store: Store) -> int:
    """Return the number of files that refer to no content, which a sound album has none of."""
    return store.scalar("SELECT count(*) FROM picture WHERE content NOT IN (SELECT id FROM content)")


def count_captioned(store: Store) -> int:
    """Return the number of pictures with a caption."""
    return store.scalar(f"SELECT count(DISTINCT content) FROM caption WHERE content IN ({HAVE_FILES})")


def count_years(store: Store, limit: int) -> list[tuple[str, int]]:
    """Return the years in which pictures were taken, the latest first, with their numbers of pictures."""
    return _counted(
        store,
        f"substr(taken, 1, 4), count(*) FROM content WHERE taken IS NOT NULL AND id IN ({HAVE_FILES})",
        limit,
        "1 DESC",
    )


def count_cameras(store: Store, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent cameras with their numbers of pictures."""
    return _counted(store, f"camera, count(*) FROM content WHERE camera IS NOT NULL AND id IN ({HAVE_FILES})", limit)


def count_tags(store: Store, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent keywords with their numbers of pictures."""
    return _counted(store, f"text, count(DISTINCT content) FROM tag WHERE content IN ({HAVE_FILES})", limit)


def count_formats(store: Store, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent file formats with their numbers of pictures."""
    return _counted(store, f"lower(format), count(*) FROM content WHERE id IN ({HAVE_FILES})", limit)


def count_ratings(store: Store, limit: int) -> list[tuple[str, int]]:
    """Return the ratings, the highest first, with their numbers of pictures."""
    columns = f"{RATING}, count(*) FROM content WHERE {RATING} IS NOT NULL AND id IN ({HAVE_FILES})"
    return [(str(rating), count) for rating, count in _counted(store, columns, limit, "1 DESC")]


def count_labels(store: Store, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent color labels with their numbers of pictures."""
    return _counted(store, f"{LABEL}, count(*) FROM content WHERE {LABEL} IS NOT NULL AND id IN ({HAVE_FILES})", limit)


def count_persons(store: Store, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent names of persons with their numbers of pictures."""
    columns = (
        f"substr(text, 8), count(DISTINCT content) FROM tag WHERE text LIKE 'person:_%' AND content IN ({HAVE_FILES})"
    )
    return _counted(store, columns, limit)


def count_months(store: Store) -> list[tuple[str, int]]:
    """Return the months in which pictures were taken, such as ``2024-05``, the latest first, with their numbers."""
    columns = f"substr(taken, 1, 7), count(*) FROM content WHERE taken IS NOT NULL AND id IN ({HAVE_FILES})"
    return _counted(store, columns, -1, "1 DESC")


def _counted(store: Store, columns: str, limit: int, order: str = "2 DESC, 1") -> list[tuple[str, int]]:
    rows = store.query(f"SELECT {columns} GROUP BY 1 ORDER BY {order} LIMIT {limit}")
    return [(row[0], row[1]) for row in rows]
