"""Pictures of an album as the page shows them: made anew, so that nothing of a file but its pixels gets out."""

from __future__ import annotations

import threading
from collections import OrderedDict

from beholder.album.thumbnail import thumbnail
from beholder.errors import PictureUnreadable

SIDES = {"thumbnail": 360, "view": 1600}  # pixels of the longer side, at most
KEPT = 64e6  # bytes of thumbnails that stay in memory


def rendering(path: str, side: int, name: str) -> bytes:
    """A JPEG no larger than a square of this side.

    Raises:
        PictureUnreadable: the file is gone or can't be read any more; called by the name.
    """
    made = thumbnail(path, side)
    if made is None:
        raise PictureUnreadable(name, "its file is gone or can't be read any more; index its folder again")
    return made


class Thumbnails:
    """The last ones that were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def get(self, content: int, path: str, name: str) -> bytes:
        """One thumbnail; the errors are those of `rendering`."""
        with self._lock:
            known = self._kept.get(content)
            if known is not None:
                self._kept.move_to_end(content)
                return known
        made = rendering(path, SIDES["thumbnail"], name)
        with self._lock:
            if content not in self._kept:
                self._kept[content] = made
                self._size += len(made)
            while self._size > KEPT:
                self._size -= len(self._kept.popitem(last=False)[1])
        return made
