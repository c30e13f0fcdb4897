"""All pictures of an album in an order, and what there is to choose from in filters."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.album.filters import Condition
from beholder.album.store import Store
from beholder.errors import InvalidSetting

ORDERS = {
    "path": "min(picture.path)",
    "newest": "content.taken IS NULL, content.taken DESC, min(picture.path)",
    "oldest": "content.taken IS NULL, content.taken, min(picture.path)",
}
MOST = 200  # values of a kind; those of the most pictures

Counted = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Facets:
    """What is in an album: values with the number of pictures that have them, the most frequent first.

    Attributes:
        pictures: all; copies count once.
        captions: pictures that have one.
        years: in which they were taken, the latest first.
    """

    pictures: int
    captions: int
    years: Counted
    cameras: Counted
    tags: Counted
    formats: Counted


def contents(store: Store, condition: Condition, order: str) -> list[int]:
    """The contents that a filter lets through, in order.

    Args:
        store: the album's.
        condition: the filter.
        order: ``path``, or by the time when they were taken, ``newest`` or ``oldest``; those without a time come last.

    Raises:
        InvalidSetting: the order is none of these.
    """
    if order not in ORDERS:
        raise InvalidSetting(f"order {order!r} is none of {', '.join(ORDERS)}")
    rows = store.query(
        f"""SELECT content.id FROM picture JOIN content ON content.id = picture.content WHERE {condition.sql}
        GROUP BY content.id ORDER BY {ORDERS[order]}""",
        condition.bound,
    )
    return [row[0] for row in rows]


def facets(store: Store) -> Facets:
    """What is in an album."""

    def counted(sql: str, order: str = "2 DESC, 1") -> Counted:
        return tuple((row[0], row[1]) for row in store.query(f"{sql} GROUP BY 1 ORDER BY {order} LIMIT {MOST}"))

    with store.snapshot():
        return Facets(
            store.scalar("SELECT count(*) FROM content"),
            store.scalar("SELECT count(DISTINCT content) FROM caption"),
            counted("SELECT substr(taken, 1, 4), count(*) FROM content WHERE taken IS NOT NULL", "1 DESC"),
            counted("SELECT camera, count(*) FROM content WHERE camera IS NOT NULL"),
            counted("SELECT text, count(DISTINCT content) FROM tag"),
            counted("SELECT lower(format), count(*) FROM content"),
        )
