"""One picture of an album."""

import os
from dataclasses import dataclass
from pathlib import Path

from beholder.pictures.read import display_name
from beholder.pictures.video import VideoFrame


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
        rating: stars from 0 to 5, -1 for rejected; by a person in the album, else the one in the file's metadata.
        label: name of the color label, likewise.
        place: city and country: those in the file's metadata, else the nearest city to its position.
        time: seconds from the start of the video of which the picture is a frame; None for a picture.
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
    rating: int | None = None
    label: str | None = None
    place: str | None = None
    time: float | None = None

    @property
    def name(self) -> str:
        """The path, safe to print, with the time of a frame."""
        return display_name(self.source, 0)

    @property
    def source(self) -> Path | VideoFrame:
        """What to read it from."""
        return Path(self.path) if self.time is None else VideoFrame(self.path, self.time)


def short_name(path: bytes) -> str:
    """A file's name with that of its folder, as text that can be stored, searched and printed."""
    return display_name(os.fsdecode(b"/".join(path.split(b"/")[-2:])), 0)
