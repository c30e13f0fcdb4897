"""Settings from a JSON file, checked by their types before anything else happens."""

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from beholder.errors import InvalidSetting, MissingExtra

Kind = TypeVar("Kind")


def read_config(path: Path, kind: type[Kind]) -> Kind:
    """A file of settings as the dataclass ``kind``.

    Raises:
        InvalidSetting: the file is missing or no JSON, or a setting is unknown, missing, of the wrong type or
            impossible; every one of them is named.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidSetting(f"{path}: can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InvalidSetting(f"{path}: is no JSON ({error})") from error
    return validate(values, kind, str(path))


def validate(values: Any, kind: type[Kind], name: str, inside: str = "") -> Kind:
    """Plain values as the dataclass ``kind``; errors begin with ``name`` and call settings ``inside.setting``.

    Raises:
        InvalidSetting: as for `read_config`.
    """
    try:
        from pydantic import ConfigDict, TypeAdapter, ValidationError
    except ImportError as error:
        raise MissingExtra("training", "train") from error
    if not isinstance(values, Mapping):
        raise InvalidSetting(f"{name}: should hold settings in braces")
    # What is nested follows the outermost class: no unknown settings, and no text where a number should be.
    outermost = make_dataclass("Settings", [("all", kind)])
    outermost.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
    try:
        return TypeAdapter(outermost).validate_json(json.dumps({"all": values})).all
    except ValidationError as error:
        faults = [_sentence(fault, kind, inside) for fault in error.errors()]
        raise InvalidSetting("\n".join(f"{name}: {fault}" for fault in dict.fromkeys(faults))) from None


def _sentence(fault: Any, kind: Any, inside: str) -> str:
    place = [str(part) for part in fault["loc"][1:]]
    dotted = ".".join([*([inside] if inside else []), *place])
    match fault["type"]:
        case "unexpected_keyword_argument":
            known = _known(kind, place[:-1])
            close = get_close_matches(place[-1], known, 1)
            hint = f"; do you mean {close[0]}?" if close else f"; known are {', '.join(known)}" if known else ""
            return f"{dotted}: there is no such setting{hint}"
        case "missing":
            return f"{dotted}: this setting is needed and missing"
        case "value_error":
            return f"{dotted}: {fault['ctx']['error']}" if dotted else str(fault["ctx"]["error"])
        case "dataclass_type":
            return f"{dotted}: should hold settings in braces, not {fault['input']!r}"
    return f"{dotted}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, not {json.dumps(fault['input'])}"


def _known(kind: Any, place: list[str]) -> list[str]:
    """The settings that there are at a place."""
    for name in place:
        kind = get_type_hints(kind).get(name) if is_dataclass(kind) else None
        if get_origin(kind) in (Union, types.UnionType):
            kind = next((each for each in get_args(kind) if is_dataclass(each)), None)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []
