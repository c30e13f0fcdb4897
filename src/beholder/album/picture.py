"""One picture of an album."""

import os
from dataclasses import dataclass

from beholder.pictures.read import display_name


@dataclass(frozen=True)
class Picture:
    """One picture of the album.

    Attributes:
        path: of its file; of several copies, the first by path.
        content: number that identifies what the picture shows. It stays through moves and copies and is never used
            again for another picture.
        width: pixels, upright.
        height: pixels, upright.
        size: bytes of the file.
        taken: local time such as ``2024-05-31T14:03:00``.
        camera: make and model.
        caption: written by a person in the album, else the one in the file's metadata.
        tags: keywords from all sources.
    """

    path: str
    content: int
    width: int
    height: int
    size: int
    taken: str | None
    camera: str | None
    caption: str | None
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path, safe to print."""
        return display_name(self.path, 0)


def short_name(path: bytes) -> str:
    """A file's name with that of its folder, as text that can be stored, searched and printed."""
    return display_name(os.fsdecode(b"/".join(path.split(b"/")[-2:])), 0)
