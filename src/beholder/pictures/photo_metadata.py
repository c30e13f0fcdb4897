"""The metadata of a photograph: from EXIF, IPTC, XMP, sidecars and, for want of others, the file name.

Sources: Exif 2.32 (tags), IPTC-NAA IIM 4.2, ISO 16684-1 (XMP), MWG *Guidelines for Handling Image Metadata* 2.0 (which
fields correspond).
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.errors import PictureBroken, PictureError
from beholder.pictures import iptc
from beholder.pictures.containers import iptc_block, xmp_packets
from beholder.pictures.dates import date_in_name, first_date, parse_date
from beholder.pictures.formats import header_damage, open_image
from beholder.pictures.sidecar import find_sidecars
from beholder.pictures.xmp import Value, XmpError, parse_xmp

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_DESCRIPTION, _MAKE, _MODEL, _ORIENTATION, _MODIFIED, _ARTIST = 0x010E, 0x010F, 0x0110, 0x0112, 0x0132, 0x013B
_RATING, _RATING_PERCENT = 0x4746, 0x4749
_XP_TITLE, _XP_COMMENT, _XP_AUTHOR, _XP_KEYWORDS, _XP_SUBJECT = 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F
_ORIGINAL, _DIGITIZED, _USER_COMMENT = 0x9003, 0x9004, 0x9286
_TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange width and height
_UPRIGHT_ON_OPENING = ("TIFF", "HEIC")  # their decoders report the size after orientation
_MAX_CAPTION, _MAX_KEYWORD, _MAX_KEYWORDS = 20_000, 200, 500

# What cameras and phones write into a description field of their own accord.
_PLACEHOLDER = re.compile(
    r"ascii|binary|btf|btfmdn|burst|camera|charset|cof|comment|dav|dcim|default|digital|dsc|edf|exif|fbt|fbthdr|fshbty|hdr|"
    r"hdrpl|image|jpeg|jpg|kodak|konica|mde|minolta|mon|none|nor|null|olympus|oznor|oznorwo|photo|pictures?|ptr|qrf|rbt|rhdr|"
    r"rpt|samsung|screenshot|sdr|sony|still|unicode|untitled|vivo"
)
_CHARACTER_SETS = {b"ASCII\0\0\0": "utf-8", b"UNICODE\0": "utf-16", b"JIS\0\0\0\0\0": "iso2022_jp", bytes(8): "utf-8"}
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_DIGIKAM_COLORS = ("", "Red", "Orange", "Yellow", "Green", "Blue", "Magenta", "Gray", "Black", "White")
_DARKTABLE_COLORS = ("Red", "Yellow", "Green", "Blue", "Purple")
_HIERARCHIES = (  # property, separator
    ("lr:hierarchicalSubject", "|"),
    ("digiKam:TagsList", "/"),
    ("MicrosoftPhoto:LastKeywordXMP", "/"),
)


@dataclass(frozen=True)
class PhotoMetadata:
    """The metadata of a picture; None or empty where there is none.

    Attributes:
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.
        format: The file format, such as ``"JPEG"``.
        taken: Date and local time taken, such as ``"2024-05-31T14:03:00"``. Of an incomplete date, the first month, day
            and midnight.
        camera: Maker and model.
        latitude: Degrees, north positive.
        longitude: Degrees, east positive.
        caption: The description that a person or a program wrote. May contain newlines.
        tags: Keywords. Of hierarchical ones the last level and the path (``"places/Cologne"``); of persons,
            ``"person:NAME"``.
        rating: Stars from 0 to 5; -1 is rejected.
        label: Name of the color label.
        headline: A short synopsis.
        creator: Who took it.
        city: City shown.
        country: Country shown.
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
    rating: int | None = None
    label: str | None = None
    headline: str | None = None
    creator: str | None = None
    city: str | None = None
    country: str | None = None


def photo_metadata(data: bytes, path: Path) -> PhotoMetadata:
    """Read the metadata of a picture from the bytes of its file and from its sidecars; no pixels are decoded.

    For each field, sidecars take precedence over the file, and in the file XMP over IPTC over EXIF, except that EXIF's
    date taken, camera and position precede those in XMP. Damaged metadata is skipped.

    Raises:
        PictureError: The bytes are not a picture that can be opened.
    """
    try:
        image, kind = open_image(data, str(path))
    except PictureError:
        raise
    except Exception as error:  # decoders raise errors of any type on damaged data
        raise PictureBroken(str(path), header_damage(path.name)) from error
    exif = _directory(image.getexif)
    width, height = image.size
    if exif.get(_ORIENTATION) in _TRANSPOSED and kind not in _UPRIGHT_ON_OPENING:
        width, height = height, width
    return _merged(
        (width, height, kind),
        sidecars=_sidecar_properties(path),
        xmp=_parsed(xmp_packets(data, image.info)),
        iim=iptc.parse_iptc(iptc_block(data, getattr(image, "tag_v2", None))),
        exif=exif | _directory(lambda: image.getexif().get_ifd(_EXIF_IFD)),
        gps=_directory(lambda: image.getexif().get_ifd(_GPS_IFD)),
        png_description=str(image.info.get("Description", "")) if kind == "PNG" else "",
        name=path.name,
    )


def sidecar_metadata(path: Path, picture: tuple[int, int, str]) -> PhotoMetadata:
    """Return the metadata that the sidecars of a file hold.

    Args:
        path: Of the file, which is not read.
        picture: Its width, height and format.
    """
    return _merged(picture, _sidecar_properties(path), xmp=[], iim={}, exif={}, gps={}, png_description="", name="")


def sidecar_caption(path: Path) -> str | None:
    """Return the caption in the sidecars of a picture, whether or not the picture itself can be opened."""
    return next(
        (text for packet in _sidecar_properties(path) if (text := _caption(_xmp(packet, "dc:description")))), None
    )


Properties = Mapping[str, Value]


def _merged(
    picture: tuple[int, int, str],
    sidecars: list[Properties],
    xmp: list[Properties],
    iim: Mapping[int, list[str]],
    exif: Mapping[int, Any],
    gps: Mapping[int, Any],
    png_description: str,
    name: str,
) -> PhotoMetadata:
    packets = [*sidecars, *xmp]

    def everywhere(*names: str) -> Iterator[str]:
        return (_xmp(packet, name) for packet in packets for name in names)

    captions = (
        *everywhere("dc:description"),
        *iim.get(iptc.CAPTION, []),
        _genuine(_text(exif.get(_DESCRIPTION))),
        _genuine(_user_comment(exif.get(_USER_COMMENT))),
        *(_genuine(_utf16(exif.get(tag))) for tag in (_XP_COMMENT, _XP_SUBJECT, _XP_TITLE)),
        png_description,
    )
    latitude, longitude = _place(sidecars, gps, xmp)
    return PhotoMetadata(
        *picture,
        taken=_taken(sidecars, xmp, iim, exif) or date_in_name(name),
        camera=_camera(exif.get(_MAKE), exif.get(_MODEL))
        or _camera(*(next(filter(None, everywhere(key)), "") for key in ("tiff:Make", "tiff:Model"))),
        latitude=latitude,
        longitude=longitude,
        caption=_first(captions, _caption),
        tags=_tags(packets, iim, exif),
        rating=_rating(packets, exif),
        label=_label(packets),
        headline=_first([*everywhere("photoshop:Headline"), *iim.get(iptc.HEADLINE, [])], _line),
        creator=_first(
            [
                *everywhere("dc:creator"),
                *iim.get(iptc.BYLINE, []),
                _text(exif.get(_ARTIST)),
                _utf16(exif.get(_XP_AUTHOR)),
            ],
            _line,
        ),
        city=_first([*everywhere("photoshop:City"), *iim.get(iptc.CITY, [])], _line),
        country=_first([*everywhere("photoshop:Country"), *iim.get(iptc.COUNTRY, [])], _line),
    )


def _sidecar_properties(path: Path) -> list[Properties]:
    packets = []
    for sidecar in find_sidecars(path):
        with suppress(OSError, ValueError):
            packets.append(sidecar.read_bytes())
    return _parsed(packets)


def _parsed(packets: Iterable[bytes]) -> list[Properties]:
    parsed: list[Properties] = []
    for packet in packets:
        with suppress(XmpError):
            parsed.append(parse_xmp(packet))
    return parsed


def _xmp(properties: Properties, name: str) -> str:
    return properties[name].default if name in properties else ""


def _directory(read: Callable[[], Mapping[int, Any]]) -> dict[int, Any]:
    try:
        return dict(read())
    except Exception:  # Pillow raises errors of any type on damaged EXIF
        return {}


# Texts


def _text(value: object) -> str:
    if isinstance(value, tuple) and value:  # the tag has a count it should not have
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    with suppress(UnicodeError):  # Pillow decodes as Latin-1 what most programs write as UTF-8
        return value.encode("latin-1").decode("utf-8")
    return value


def _utf16(value: object) -> str:
    """Return the text of one of Windows' XP tags."""
    if isinstance(value, tuple) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
        value = bytes(value)
    return value.decode("utf-16-le", "replace") if isinstance(value, bytes) else ""


def _user_comment(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return ""
    encoding = _CHARACTER_SETS.get(value[:8])
    if encoding is None:  # the character set is missing
        text = value.decode("utf-8", "replace")
        return "" if "\ufffd" in text else text
    body = value[8:]
    if encoding == "utf-16" and not body.startswith((b"\xff\xfe", b"\xfe\xff")):
        # In the byte order of the EXIF block, which not every writer keeps to: the zeros of Latin letters tell.
        encoding = "utf-16-be" if body[::2].count(0) > body[1::2].count(0) else "utf-16-le"
    text = body.decode(encoding, "replace")
    return "" if text.count("\ufffd") > len(text) // 10 else text


def _genuine(text: str) -> str:
    """Return a text, or nothing if it is one that cameras write of their own accord or holds no text but data."""
    text = text.strip("\x00 \t\r\n")
    is_data = text.startswith(("{", "<?xml", "[{")) or len(_UNPRINTABLE.findall(text)) > len(text) // 10
    words = re.findall(r"[^\W_]+", text[:200].lower())
    is_placeholder = all(map(_PLACEHOLDER.fullmatch, words)) and (bool(words) or text.isascii())
    return "" if is_data or is_placeholder else text


def _caption(text: str) -> str:
    """Return a caption without control characters; white space stays."""
    text = re.sub("[\x0b\x0c\x1c-\x1f]", " ", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _UNPRINTABLE.sub("", text).strip("\ufeff \t\n")[:_MAX_CAPTION].rstrip()


def _line(text: str) -> str:
    """Return a text on one line."""
    return _UNPRINTABLE.sub("", " ".join(text.strip("\ufeff").split())).strip()[:_MAX_KEYWORD]


def _first(texts: Iterable[str], clean: Callable[[str], str]) -> str | None:
    return next((cleaned for text in texts if (cleaned := clean(text))), None)


def _camera(make: object, model: object) -> str | None:
    maker, kind = _line(_text(make)), _line(_text(model))
    if kind.casefold().startswith(maker.casefold()):
        maker = ""
    return f"{maker} {kind}".strip() or None


# Dates and places


def _taken(
    sidecars: list[Properties], xmp: list[Properties], iim: Mapping[int, list[str]], exif: Mapping[int, Any]
) -> str | None:
    created, digitized = (
        ("exif:DateTimeOriginal", "photoshop:DateCreated"),
        ("xmp:CreateDate", "exif:DateTimeDigitized"),
    )

    def of(packets: list[Properties], names: tuple[str, ...]) -> list[str]:
        return [_xmp(packet, name) for packet in packets for name in names]

    iim_date = next(iter(iim.get(iptc.DATE_CREATED, [])), "")
    iim_time = next(iter(iim.get(iptc.TIME_CREATED, [])), "")
    groups = (
        of(sidecars, created),
        [_text(exif.get(_ORIGINAL)), *of(xmp, created), f"{iim_date}T{iim_time[:6]}" if iim_time else iim_date],
        of(sidecars, digitized),
        [_text(exif.get(_DIGITIZED)), *of(xmp, digitized), _text(exif.get(_MODIFIED))],
    )
    return next((found for group in groups if (found := first_date(map(parse_date, group)))), None)


def _place(
    sidecars: list[Properties], gps: Mapping[int, Any], xmp: list[Properties]
) -> tuple[float | None, float | None]:
    def of(packets: list[Properties]) -> Iterator[tuple[float | None, float | None]]:
        for packet in packets:
            yield (
                _xmp_degrees(_xmp(packet, "exif:GPSLatitude"), _xmp(packet, "exif:GPSLatitudeRef"), "S", 90),
                _xmp_degrees(_xmp(packet, "exif:GPSLongitude"), _xmp(packet, "exif:GPSLongitudeRef"), "W", 180),
            )

    in_exif = _degrees(gps.get(2), gps.get(1), "S", 90), _degrees(gps.get(4), gps.get(3), "W", 180)
    for latitude, longitude in (*of(sidecars), in_exif, *of(xmp)):
        if latitude is not None and longitude is not None and (latitude, longitude) != (0, 0):  # 0, 0: no GPS fix
            return latitude, longitude
    return None, None


def _degrees(value: Any, reference: object, negative: str, maximum: int) -> float | None:
    """Return the angle of an EXIF triple of degrees, minutes and seconds."""
    try:
        degrees, minutes, seconds = (float(part) for part in value)
        angle = degrees + minutes / 60 + seconds / 3600
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not math.isfinite(angle) or not 0 <= angle <= maximum:
        return None
    return -angle if _text(reference).strip().upper().startswith(negative) else angle


def _xmp_degrees(text: str, reference: str, negative: str, maximum: int) -> float | None:
    """Return the angle of ``52,30.5N``, ``52,30,30N``, ``52.5083`` or ``-52.5083``."""
    match = re.fullmatch(r"\s*(-?)([\d.]+)(?:,([\d.]+))?(?:,([\d.]+))?\s*([NSEWnsew]?)\s*", text)
    if match is None:
        return None
    parts = [match[2], match[3] or "0", match[4] or "0"]
    angle = _degrees(parts, match[5] or reference, negative, maximum)
    return -angle if angle is not None and match[1] else angle


# Keywords, ratings, labels


def _tags(packets: list[Properties], iim: Mapping[int, list[str]], exif: Mapping[int, Any]) -> tuple[str, ...]:
    """Return the keywords of the first source that has any, and the persons that any source names."""
    found: list[str] = []
    sources = [list(_keywords(packet)) for packet in packets]
    sources += [iim.get(iptc.KEYWORDS, []), _utf16(exif.get(_XP_KEYWORDS)).split(";")]
    for source in sources:
        found = [word for text in source if (word := _line(text))]
        if found:
            break
    found += [f"person:{name}" for packet in packets for text in _persons(packet) if (name := _line(text))]
    return tuple(dict.fromkeys(found))[:_MAX_KEYWORDS]


def _keywords(properties: Properties) -> Iterator[str]:
    yield from _texts(properties, "dc:subject")
    for name, separator in _HIERARCHIES:
        for path in _texts(properties, name):
            levels = [level.strip() for level in path.split(separator) if level.strip()]
            yield from levels[-1:]
            if len(levels) > 1:
                yield "/".join(levels)


def _persons(properties: Properties) -> Iterator[str]:
    yield from _texts(properties, "Iptc4xmpExt:PersonInImage")
    for regions, region_list, name in (
        ("mwg-rs:Regions", "mwg-rs:RegionList", "mwg-rs:Name"),
        ("MP:RegionInfo", "MPRI:Regions", "MPReg:PersonDisplayName"),
    ):
        listed = properties.get(regions, Value()).fields.get(region_list, Value())
        for region in listed.items:
            kind = region.fields.get("mwg-rs:Type", Value()).text
            if name in region.fields and kind in ("", "Face"):
                yield region.fields[name].default


def _texts(properties: Properties, name: str) -> list[str]:
    return properties[name].texts if name in properties else []


def _rating(packets: list[Properties], exif: Mapping[int, Any]) -> int | None:
    for packet in packets:
        stars = _number(_xmp(packet, "xmp:Rating"))
        if stars is not None and -1 <= stars <= 5:
            return round(stars)
        percent = _number(_xmp(packet, "MicrosoftPhoto:Rating"))
        if percent is not None and 0 <= percent <= 100:
            return _stars(percent)
    stars, percent = _number(exif.get(_RATING)), _number(exif.get(_RATING_PERCENT))
    if stars is not None and 0 <= stars <= 5:
        return round(stars)
    return _stars(percent) if percent is not None and 0 <= percent <= 100 else None


def _stars(percent: float) -> int:
    """Return the stars of one of Windows' percentages: 1, 25, 50, 75, 99."""
    return 0 if percent == 0 else min(5, 1 + round(percent / 25))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _label(packets: list[Properties]) -> str | None:
    for packet in packets:
        label = _line(_xmp(packet, "xmp:Label") or _xmp(packet, "photoshop:LabelColor"))
        for name, colors in (("digiKam:ColorLabel", _DIGIKAM_COLORS), ("darktable:colorlabels", _DARKTABLE_COLORS)):
            number = _xmp(packet, name).strip()
            if not label and number.isascii() and number.isdigit() and int(number[:4]) < len(colors):
                label = colors[int(number)]
        if label:
            return label
    return None
