"""Videos: a frame for each scene, and a frame at a given time.

Candidates are key frames, which encoders place at cuts and every few seconds. One starts a scene if it differs from the
frame that started the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from beholder.errors import PictureBroken, PictureNotFound, PictureRefused, PictureUnreadable
from beholder.pictures.dates import date_in_name, parse_date
from beholder.pictures.photo_metadata import PhotoMetadata, sidecar_metadata

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame as DecodedFrame

VIDEO_EXTENSIONS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".mts", ".m2ts", ".3gp", ".webm", ".wmv", ".mpg", ".mpeg"}
MAX_SCENES = 1000  # of one video
MIN_DIFFERENCE = 16.0  # mean difference of two scenes' small frames, in levels of 0..255
_SMALL = (32, 18)  # pixels at which frames are compared
_SIDE = 1024  # pixels of a scene's longer side
_MAX_PIXELS = 8192 * 8192
# FFmpeg's playlists can name other files and addresses, so only formats that contain their own data are opened.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf",
}
_POSITION = re.compile(r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)")  # ISO 6709
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video, which can be given wherever a picture can.

    Attributes:
        path: of the video.
        time: seconds from its start.
    """

    path: str
    time: float


def can_read_videos() -> bool:
    """Return whether PyAV is installed."""
    try:
        return find_spec("av") is not None
    except ValueError:  # it is blocked
        return False


def is_video(path: Path) -> bool:
    """Return whether a file has the extension of a video."""
    return path.suffix.lower() in VIDEO_EXTENSIONS


def clock(seconds: float) -> str:
    """Return a time as ``1:02:03`` or ``0:07``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def scene_frames(path: Path) -> Iterator[tuple[int, Image.Image]]:
    """Yield the first frame of each scene, upright and at most 1,024 pixels wide and high, with its milliseconds.

    Raises:
        PictureError: PyAV is not installed, or the file can't be read, or is not a video.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        stream.thread_type = "AUTO"
        last: np.ndarray | None = None
        count, latest = 0, -1
        for frame in container.decode(stream):
            time = round(1000 * frame.time) if frame.time is not None else 0
            small = np.asarray(frame.reformat(*_SMALL, format="rgb24").to_ndarray(), np.float32)
            if time <= latest or (last is not None and np.abs(small - last).mean() < MIN_DIFFERENCE):
                continue
            scale = min(1.0, _SIDE / max(frame.width, frame.height))
            size = max(2, round(frame.width * scale)), max(2, round(frame.height * scale))
            yield time, _upright(frame.reformat(*size, format="rgb24").to_image(), frame)
            last, latest, count = small, time, count + 1
            if count == MAX_SCENES:
                return
        if not count:
            raise PictureBroken(str(path), "no frame of this video can be decoded")


def read_frame(video: VideoFrame) -> Image.Image:
    """Decode the frame of a video at a time, upright; the last one if the time is after its end.

    Raises:
        PictureError: PyAV is not installed, or the file can't be read, or is not a video.
    """
    path = Path(video.path)
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        container.seek(max(0, int(video.time * 1_000_000)), backward=True)
        found: DecodedFrame | None = None
        for frame in container.decode(stream):
            found = frame
            if frame.time is None or frame.time >= video.time - 0.001:
                break
        if found is None:
            raise PictureBroken(str(path), f"no frame at {clock(video.time)} can be decoded")
        return _upright(found.to_image(), found)


def video_metadata(path: Path) -> PhotoMetadata:
    """Return the metadata of a video: from its sidecars, its container and its name; times in it are often UTC.

    Raises:
        PictureError: PyAV is not installed, or the file can't be read, or is not a video.
    """
    with _opened(path) as container:
        context = container.streams.video[0].codec_context
        width, height = context.width, context.height
        first = next(container.decode(container.streams.video[0]), None)
        if first is not None and int(getattr(first, "rotation", 0)) % 180:
            width, height = height, width
        tags = {str(key).lower(): str(value) for key, value in container.metadata.items()}
    found = sidecar_metadata(path, (width, height, path.suffix[1:].upper()))
    place = _POSITION.match(tags.get("com.apple.quicktime.location.iso6709", tags.get("location", "")))
    camera = f"{tags.get('com.apple.quicktime.make', '')} {tags.get('com.apple.quicktime.model', '')}".strip()
    created = tags.get("com.apple.quicktime.creationdate", "")
    if found.latitude is None and place is not None and (float(place[1]), float(place[2])) != (0, 0):
        found = replace(found, latitude=float(place[1]), longitude=float(place[2]))
    return replace(
        found,
        taken=found.taken
        or parse_date(created)
        or date_in_name(path.name)
        or parse_date(tags.get("creation_time", "")),
        camera=found.camera or camera or None,
        caption=found.caption or tags.get("description") or tags.get("title") or None,
    )


def _upright(image: Image.Image, frame: DecodedFrame) -> Image.Image:
    turn = _TURNS.get(int(getattr(frame, "rotation", 0)) % 360)
    return image if turn is None else image.transpose(turn)


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        import av
    except ImportError as error:
        raise PictureRefused(str(path), 'cannot read videos: pip install "beholder[video]"') from error
    av.logging.set_level(av.logging.PANIC)
    container: Any = None
    try:
        container = av.open(str(path), options=_OPTIONS)
        if not container.streams.video:
            raise PictureBroken(str(path), "there are no moving pictures in this file")
        context = container.streams.video[0].codec_context
        if context.width * context.height > _MAX_PIXELS:
            raise PictureBroken(str(path), f"its frames are {context.width} x {context.height} pixels")
        yield container
    except FileNotFoundError as error:
        raise PictureNotFound(str(path), "no such file") from error
    except PermissionError as error:
        raise PictureUnreadable(str(path), f"can't be opened: {error.strerror}") from error
    except av.FFmpegError as error:
        raise PictureBroken(str(path), "this video is damaged, or of a kind that is not read") from error
    finally:
        if container is not None:
            container.close()
