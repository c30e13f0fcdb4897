"""Browsing an album: all pictures in an order, and the values that filters can choose from."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.album.filters import Condition
from beholder.album.store import pictures
from beholder.album.store.connection import Store
from beholder.errors import InvalidSetting

MAX_VALUES = 200  # of each facet, those of the most pictures

Counts = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Facets:
    """Values with the number of pictures that have them, the most frequent first.

    Attributes:
        pictures: number of all pictures; copies count once.
        captions: number of pictures with a caption.
        years: in which pictures were taken, the latest first.
        cameras: make and model.
        tags: keywords from all sources.
        formats: of the files, in lower case.
        ratings: stars, the most first; -1 is rejected.
        labels: names of color labels.
        persons: names of persons in the pictures.
        months: in which pictures were taken, such as ``2024-05``, the latest first.
    """

    pictures: int
    captions: int
    years: Counts
    cameras: Counts
    tags: Counts
    formats: Counts
    ratings: Counts
    labels: Counts
    persons: Counts
    months: Counts


def list_contents(store: Store, condition: Condition, order: str) -> list[int]:
    """Return the contents that a filter selects, in order.

    Args:
        store: the album.
        condition: the filter.
        order: ``path``, or by the time they were taken, ``newest`` or ``oldest``; those without a time come last.

    Raises:
        InvalidSetting: unknown order.
    """
    _check_order(order)
    return pictures.list_contents(store, condition.sql, condition.bound, order)


def list_layout(store: Store, condition: Condition, order: str) -> list[pictures.LayoutRow]:
    """Return what a page needs to lay out the pictures that a filter selects, in order; as `list_contents`."""
    _check_order(order)
    return pictures.list_layout(store, condition.sql, condition.bound, order)


def _check_order(order: str) -> None:
    if order not in pictures.ORDERS:
        raise InvalidSetting(f"unknown order {order!r}; choose one of {', '.join(pictures.ORDERS)}")


def count_facets(store: Store) -> Facets:
    """Count what is in an album."""
    with store.snapshot():
        return Facets(
            pictures.count_pictures(store),
            pictures.count_captioned(store),
            tuple(pictures.count_years(store, MAX_VALUES)),
            tuple(pictures.count_cameras(store, MAX_VALUES)),
            tuple(pictures.count_tags(store, MAX_VALUES)),
            tuple(pictures.count_formats(store, MAX_VALUES)),
            tuple(pictures.count_ratings(store, MAX_VALUES)),
            tuple(pictures.count_labels(store, MAX_VALUES)),
            tuple(pictures.count_persons(store, MAX_VALUES)),
            tuple(pictures.count_months(store)),
        )
