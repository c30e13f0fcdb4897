"""The filter language of ``--where``, compiled to SQL conditions.

    filter   = part { "or" part }
    part     = term { ["and"] term }
    term     = ( "not" | "-" ) term | "(" filter ")" | field operator value
    operator = ":" | "=" | "<" | "<=" | ">" | ">="          ":" and "=" mean the same
    value    = word | "quoted text"                          in quotes, \\" is a quote

    folder:PATH       below this folder                  date>=2024-05      taken in May 2024 or later
    name:text         in the file's or folder's name     date:2024          taken in 2024
    caption:text      in a caption                       width>=1920        pixels of the upright picture; height, too
    tag:text          has exactly this tag               pixels>=2mp        width × height; units are k and mp
    camera:text       in the camera's name               size<500kb         of the file; units are kb, mb and gb
    format:jpeg       of the file                        near:52.5,13.4,10  taken within 10 km of this place
    creator:text      in the photographer's name         rating>=3          stars; -1 is rejected
    place:text        in the city's or country's name    label:red          color label
    person:text       in a person's name                 text:text          in the text recognized in the picture
    has:date          also place, camera, caption, tag, rating, label, creator, person, text, video

Every value is bound to the condition, so no value can be read as SQL.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from beholder.album.fulltext import fold
from beholder.album.store.files import UNDER, under
from beholder.album.store.pictures import LABEL, RATING
from beholder.errors import InvalidFilter

MAX_DEPTH = 50  # nested brackets and negations
MAX_LENGTH = 10_000  # characters

TOKEN = re.compile(
    r"""\s*(?:(?P<bracket>[()])
    |(?P<minus>-)(?=[(a-zA-Z])
    |(?P<field>[a-zA-Z]+)\s*(?P<operator><=|>=|[:=<>])\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<word>[^\s()"]+))
    |(?P<name>and|or|not)(?![\w:=<>]))""",
    re.VERBOSE | re.IGNORECASE,
)
UNITS = {"": 1, "k": 1e3, "mp": 1e6, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9}
HAS = {
    "date": "content.taken IS NOT NULL",
    "place": "(content.latitude IS NOT NULL AND content.longitude IS NOT NULL OR content.city IS NOT NULL)",
    "camera": "content.camera IS NOT NULL",
    "caption": "EXISTS (SELECT 1 FROM caption WHERE caption.content = content.id)",
    "tag": "EXISTS (SELECT 1 FROM tag WHERE tag.content = content.id)",
    "rating": f"{RATING} IS NOT NULL",
    "label": f"{LABEL} IS NOT NULL",
    "creator": "content.creator IS NOT NULL",
    "person": "EXISTS (SELECT 1 FROM tag WHERE tag.content = content.id AND tag.text LIKE 'person:_%')",
    "text": "EXISTS (SELECT 1 FROM recognized WHERE recognized.content = content.id AND recognized.text != '')",
    "video": "picture.time >= 0",
}
EARTH = 6371.0088  # kilometres, the mean radius


@dataclass(frozen=True)
class Condition:
    """A SQL condition over the tables ``picture`` and ``content``, and the values bound to it."""

    sql: str
    bound: tuple[Any, ...] = ()


MATCH_ALL = Condition("1")


def parse(text: str | None) -> Condition:
    """Compile a filter.

    Raises:
        InvalidFilter: syntax error; the message says where and why.
    """
    if text is None or not text.strip():
        return MATCH_ALL
    if len(text) > MAX_LENGTH:
        raise InvalidFilter(f"the filter is {len(text)} characters long; at most {MAX_LENGTH} are allowed")
    parser = _Parser(text)
    condition = parser.parse_or(0)
    if parser.token is not None:
        raise parser.error("unmatched closing bracket")
    return condition


class _Parser:
    def __init__(self, text: str):
        self.text = text
        self.place = 0
        self.start = 0
        self.token: dict[str, str | None] | None = None
        self.next()

    def next(self) -> None:
        """Advance to the next token; None at the end."""
        self.start = self.place
        if not self.text[self.place :].strip():
            self.token, self.place = None, len(self.text)
            return
        found = TOKEN.match(self.text, self.place)
        if found is None:
            raise self.error("a term is a field, an operator and a value, such as date>=2024-05 or camera:canon")
        self.start = found.start() + len(found[0]) - len(found[0].lstrip())
        self.token, self.place = found.groupdict(), found.end()

    def error(self, reason: str) -> InvalidFilter:
        rest = self.text[self.start :].strip()
        where = f'at "{rest[:40]}"' if rest else "at its end"
        return InvalidFilter(f"invalid filter {where}: {reason}")

    def named(self, *names: str) -> bool:
        return self.token is not None and (self.token["name"] or "").lower() in names

    def parse_or(self, depth: int) -> Condition:
        parts = [self.parse_and(depth)]
        while self.named("or"):
            self.next()
            parts.append(self.parse_and(depth))
        return _join(parts, " OR ")

    def parse_and(self, depth: int) -> Condition:
        parts = [self.parse_term(depth)]
        while self.token is not None and not self.named("or") and self.token["bracket"] != ")":
            if self.named("and"):
                self.next()
            parts.append(self.parse_term(depth))
        return _join(parts, " AND ")

    def parse_term(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} nested brackets")
        token = self.token
        if token is None:
            raise self.error("a term is missing here")
        if token["minus"] or self.named("not"):
            self.next()
            inner = self.parse_term(depth + 1)
            return Condition(f"NOT coalesce(({inner.sql}), 0)", inner.bound)
        if token["bracket"] == "(":
            self.next()
            inner = self.parse_or(depth + 1)
            if self.token is None or self.token["bracket"] != ")":
                raise self.error("a bracket is not closed")
            self.next()
            return inner
        if not token["field"]:
            raise self.error("a term is expected here")
        field = token["field"].lower()
        if field not in FIELDS:
            raise self.error(f"unknown field {field}; the fields are {', '.join(FIELDS)}")
        quoted = token["quoted"]
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token["word"] or ""
        operator = "=" if token["operator"] == ":" else token["operator"] or ""
        try:
            condition = FIELDS[field](operator, value)
        except ValueError as error:
            raise self.error(str(error)) from None
        self.next()
        return condition


def _join(parts: list[Condition], how: str) -> Condition:
    if len(parts) == 1:
        return parts[0]
    return Condition(
        how.join(f"({part.sql})" for part in parts), tuple(value for part in parts for value in part.bound)
    )


def _require_equality(operator: str) -> None:
    if operator != "=":
        raise ValueError(f"this field takes : or =, not {operator}")


def _folder(operator: str, value: str) -> Condition:
    _require_equality(operator)
    folder = os.path.abspath(Path(value).expanduser())  # noqa: PTH100 (links are kept)
    column = UNDER.replace("path", "picture.path")
    spellings = dict.fromkeys((folder, os.path.realpath(folder)))
    return _join([Condition(column, under(os.fsencode(path))) for path in spellings], " OR ")


def _contains(column: str) -> Callable[[str, str], Condition]:
    def made(operator: str, value: str) -> Condition:
        _require_equality(operator)
        return Condition(f"instr(fold({column}), ?)", (fold(value),))

    return made


def _caption(operator: str, value: str) -> Condition:
    _require_equality(operator)
    inside = "SELECT 1 FROM caption WHERE caption.content = content.id AND instr(fold(caption.text), ?)"
    return Condition(f"EXISTS ({inside})", (fold(value),))


def _person(operator: str, value: str) -> Condition:
    _require_equality(operator)
    inside = "SELECT 1 FROM tag WHERE tag.content = content.id AND text LIKE 'person:_%'"
    return Condition(f"EXISTS ({inside} AND instr(fold(substr(tag.text, 8)), ?))", (fold(value),))


def _text(operator: str, value: str) -> Condition:
    _require_equality(operator)
    inside = "SELECT 1 FROM recognized WHERE recognized.content = content.id AND instr(fold(recognized.text), ?)"
    return Condition(f"EXISTS ({inside})", (fold(value),))


def _tag(operator: str, value: str) -> Condition:
    _require_equality(operator)
    inside = "SELECT 1 FROM tag WHERE tag.content = content.id AND fold(tag.text) = ?"
    return Condition(f"EXISTS ({inside})", (fold(value),))


def _format(operator: str, value: str) -> Condition:
    _require_equality(operator)
    known = {"jpg": "jpeg", "tif": "tiff", "heif": "heic"}.get(value.casefold(), value.casefold())
    return Condition("lower(content.format) = ?", (known,))


def _has(operator: str, value: str) -> Condition:
    _require_equality(operator)
    if value.lower() not in HAS:
        raise ValueError(f"has: takes {', '.join(HAS)}")
    return Condition(HAS[value.lower()])


def _label(operator: str, value: str) -> Condition:
    _require_equality(operator)
    return Condition(f"fold({LABEL}) = ?", (fold(value),))


def _place(operator: str, value: str) -> Condition:
    _require_equality(operator)
    written = "instr(fold(concat_ws(', ', content.city, content.country)), ?)"
    inside = "SELECT 1 FROM located WHERE located.content = content.id AND instr(located.names, ?)"
    return Condition(f"({written} OR EXISTS ({inside}))", (fold(value), f"\n{fold(value)}"))


def _rating(operator: str, value: str) -> Condition:
    if not re.fullmatch(r"-1|[0-5]", value):
        raise ValueError("a rating is 0 to 5 stars, or -1 for rejected")
    return Condition(f"{RATING} {operator} ?", (int(value),))


def _date(operator: str, value: str) -> Condition:
    if not re.fullmatch(r"\d{4}(-\d{2}(-\d{2})?)?", value):
        raise ValueError("a date is 2024, 2024-05 or 2024-05-31")
    year, month, day = ([int(part) for part in value.split("-")] + [0, 0])[:3]
    first = date(year, month or 1, day or 1)
    if day:
        after = first + timedelta(days=1)
    elif month:
        after = date(year + month // 12, month % 12 + 1, 1)
    else:
        after = date(year + 1, 1, 1)
    start, end = first.isoformat(), after.isoformat()
    match operator:
        case "=":
            return Condition("content.taken >= ? AND content.taken < ?", (start, end))
        case ">=":
            return Condition("content.taken >= ?", (start,))
        case ">":
            return Condition("content.taken >= ?", (end,))
        case "<":
            return Condition("content.taken < ?", (start,))
        case _:
            return Condition("content.taken < ?", (end,))


def _number(expression: str, units: tuple[str, ...]) -> Callable[[str, str], Condition]:
    def made(operator: str, value: str) -> Condition:
        found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]*)", value)
        if found is None or found[2].lower() not in units:
            raise ValueError(f"a number is expected, such as 500 or 2{units[-1]}")
        return Condition(f"{expression} {operator} ?", (float(found[1]) * UNITS[found[2].lower()],))

    return made


def _near(operator: str, value: str) -> Condition:
    _require_equality(operator)
    try:
        latitude, longitude, distance = (float(part) for part in value.split(","))
    except ValueError:
        raise ValueError("a place is latitude,longitude,kilometres, such as near:52.5,13.4,10") from None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180 and 0 <= distance < float("inf")):
        raise ValueError("latitude is within ±90, longitude within ±180, the distance not negative")
    angle = """2 * asin(min(1, sqrt(pow(sin(radians(content.latitude - ?) / 2), 2) + cos(radians(?))
        * cos(radians(content.latitude)) * pow(sin(radians(content.longitude - ?) / 2), 2))))"""
    return Condition(f"{angle} <= ?", (latitude, latitude, longitude, distance / EARTH))


FIELDS: dict[str, Callable[[str, str], Condition]] = {
    "folder": _folder,
    "name": _contains("picture.name"),
    "caption": _caption,
    "tag": _tag,
    "camera": _contains("content.camera"),
    "creator": _contains("content.creator"),
    "place": _place,
    "person": _person,
    "text": _text,
    "label": _label,
    "rating": _rating,
    "format": _format,
    "date": _date,
    "width": _number("content.width", ("", "k")),
    "height": _number("content.height", ("", "k")),
    "pixels": _number("content.width * content.height", ("", "k", "mp")),
    "size": _number("picture.size", ("", "b", "kb", "mb", "gb")),
    "near": _near,
    "has": _has,
}
