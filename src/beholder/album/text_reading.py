"""Reads the text in an album's pictures, each picture once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from beholder.album.picture import Picture
from beholder.album.store import pictures, recognized
from beholder.album.store.connection import Store
from beholder.album.store.files import under
from beholder.errors import PictureError

if TYPE_CHECKING:
    from beholder.pictures.limits import Limits
    from beholder.tasks.text_recognition import TextRecognizer

COMMIT_EVERY = 1.0  # seconds


def read_texts(
    store: Store,
    roots: Sequence[bytes],
    recognizer: Callable[[], TextRecognizer],
    *,
    on_total: Callable[[int], None],
    on_picture: Callable[[Picture, str | PictureError], None],
    limits: Limits | None = None,
) -> None:
    """Read the text in the pictures of some folders that have not been read, and commit it every second.

    Args:
        store: the album.
        roots: folders or files, their links resolved.
        recognizer: returns the recognizer; called only if there is something to read.
        on_total: called with the number of pictures to read.
        on_picture: called with each picture and its text, or the error; with the text before it is on disk.
        limits: on pixels, bytes and sides.
    """
    contents = recognized.unread(store, [under(root) for root in roots])
    on_total(len(contents))
    if not contents:
        return
    reader = recognizer()
    waiting: list[tuple[int, str]] = []
    committed = time.monotonic()
    try:
        for content in contents:
            picture = pictures.get_pictures(store, [content]).get(content)
            if picture is None:
                continue
            try:
                text: str | PictureError = reader.read(picture.source, limits)
            except PictureError as error:
                text = error
            if isinstance(text, str):
                waiting.append((content, text))
            on_picture(picture, text)
            if time.monotonic() - committed > COMMIT_EVERY:
                recognized.save_texts(store, waiting)
                waiting, committed = [], time.monotonic()
    finally:  # interrupted or not, what was read is kept
        recognized.save_texts(store, waiting)
