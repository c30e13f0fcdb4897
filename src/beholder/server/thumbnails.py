"""Album pictures as the page shows them: re-encoded, so that only pixels leave the file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from beholder.album.thumbnail import thumbnail
from beholder.errors import PictureUnreadable
from beholder.pictures.video import VideoFrame

MAX_SIDES = {"thumbnail": 360, "view": 1600}  # pixels of the longer side
CACHE_BYTES = 64e6


def render(source: Path | VideoFrame, max_side: int, name: str) -> bytes:
    """Return a JPEG whose longer side has at most ``max_side`` pixels.

    Raises:
        PictureUnreadable: The file is gone or can no longer be read; ``name`` is what the message calls it.
    """
    data = thumbnail(source, max_side)
    if data is None:
        raise PictureUnreadable(name, "its file is gone or can no longer be read; index its folder again")
    return data


class ThumbnailCache:
    """The most recently used thumbnails, in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def get(self, content: int, source: Path | VideoFrame, name: str) -> bytes:
        """Return a thumbnail; raises what `render` raises."""
        with self._lock:
            cached = self._cache.get(content)
            if cached is not None:
                self._cache.move_to_end(content)
                return cached
        data = render(source, MAX_SIDES["thumbnail"], name)
        with self._lock:
            if content not in self._cache:
                self._cache[content] = data
                self._size += len(data)
            while self._size > CACHE_BYTES:
                self._size -= len(self._cache.popitem(last=False)[1])
        return data
