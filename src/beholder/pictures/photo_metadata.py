"""What a picture's file says of itself: size, time and place taken, camera, caption and keywords.

Sources: EXIF 2.3 (the numbers of its tags), Adobe's *XMP Specification* (``dc:description``, ``dc:subject``).
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from beholder.errors import PictureBroken, PictureError
from beholder.pictures.caption_metadata import DC, RDF, description_of, sidecar
from beholder.pictures.formats import open_image

EXIF, GPS = 0x8769, 0x8825
TIMES = (0x9003, 0x9004)  # DateTimeOriginal, DateTimeDigitized, both in the EXIF part
MAKE, MODEL, CHANGED = 0x010F, 0x0110, 0x0132
TURNED = (5, 6, 7, 8)  # orientations whose width and height change places
LONGEST_TEXT = 2000  # characters of a caption or a camera's name


@dataclass(frozen=True)
class PhotoMetadata:
    """What is known; None or empty where the file does not say.

    Attributes:
        width: in pixels, upright.
        height: in pixels, upright.
        format: such as ``"JPEG"``.
        taken: local time, ``"2024-05-31T14:03:00"``.
        camera: maker and model.
        latitude: degrees, north positive.
        longitude: degrees, east positive.
    """

    width: int
    height: int
    format: str
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    caption: str | None = None
    tags: tuple[str, ...] = ()


def photo_metadata(data: bytes, path: Path) -> PhotoMetadata:
    """Read from the bytes of a picture and from the sidecar beside it; the pixels are not decoded.

    Damage in the metadata leaves out what it hits.

    Raises:
        PictureError: the bytes are no picture that can be opened.
    """
    try:
        image, kind = open_image(data, str(path))
    except PictureError:
        raise
    except Exception as error:  # decoders meet damage with errors of any type
        raise PictureBroken(str(path), "its header is damaged or truncated") from error
    width, height = image.size
    exif = _tags(image.getexif)
    if exif.get(0x0112) in TURNED and kind == "JPEG":
        width, height = height, width
    inner, place = _part(image, EXIF), _part(image, GPS)
    times = (*(inner.get(tag) for tag in TIMES), exif.get(CHANGED))
    caption, tags = _described(image, path)
    return PhotoMetadata(
        width,
        height,
        kind,
        next((read for time in times if (read := _time(time))), None),
        _camera(exif.get(MAKE), exif.get(MODEL)),
        _degrees(place.get(2), place.get(1), "S", 90),
        _degrees(place.get(4), place.get(3), "W", 180),
        caption,
        tags,
    )


def _tags(read: Any) -> dict[int, Any]:
    try:
        return dict(read())
    except Exception:  # damage of any kind
        return {}


def _part(image: Image.Image, number: int) -> dict[int, Any]:
    return _tags(lambda: image.getexif().get_ifd(number))


def _text(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return "".join(letter for letter in text if letter.isprintable()).strip()[:LONGEST_TEXT]


def _time(value: object) -> str | None:
    try:
        return datetime.strptime(_text(value)[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _camera(make: object, model: object) -> str | None:
    maker, kind = _text(make or ""), _text(model or "")
    if kind.casefold().startswith(maker.casefold()):
        maker = ""
    return f"{maker} {kind}".strip() or None


def _degrees(value: Any, side: object, negative: str, most: int) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in value)
        angle = degrees + minutes / 60 + seconds / 3600
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not math.isfinite(angle) or not 0 <= angle <= most:
        return None
    return -angle if _text(side).upper().startswith(negative) else angle


def _described(image: Image.Image, path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Caption and keywords, those in the sidecar before those in the file."""
    packets = []
    with suppress(OSError, ValueError):
        packets.append(sidecar(path).read_bytes())
    packets.append(image.info.get("xmp") or b"")
    caption: str | None = None
    tags: tuple[str, ...] = ()
    for packet in packets:
        raw = packet.encode() if isinstance(packet, str) else packet
        try:
            caption = caption or description_of(raw)
            subjects = ElementTree.fromstring(raw.strip(b"\x00 \n\r\t")).iterfind(f".//{{{DC}}}subject//{{{RDF}}}li")
            tags = tags or tuple(dict.fromkeys(name for item in subjects if (name := _text(item.text or ""))))
        except (ElementTree.ParseError, ValueError, TypeError):
            continue
    return (_text(caption) or None if caption else None), tags
