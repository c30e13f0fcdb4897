"""A small JPEG of a picture, encoded from its pixels alone: no metadata of the file gets into it."""

from io import BytesIO
from pathlib import Path

from beholder.errors import PictureError
from beholder.pictures.limits import Limits
from beholder.pictures.read import read_picture
from beholder.pictures.video import VideoFrame


def thumbnail(
    source: str | Path | bytes | VideoFrame,
    side: int,
    width: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> bytes | None:
    """Return a JPEG that fits into a box, or None if the picture can't be read any more.

    Args:
        source: path of the picture, its bytes, or a frame of a video.
        side: height of the box in pixels.
        width: of the box in pixels; by default its height.
        limits: on the picture.
    """
    try:
        image = read_picture(source, reduce_to=side, limits=limits)
    except PictureError:
        return None
    image.thumbnail((width or side, side))
    file = BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()
