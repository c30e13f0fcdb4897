"""Configs in JSON files, validated by their types before anything else happens."""

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from beholder.errors import InvalidSetting, MissingExtra

Kind = TypeVar("Kind")

RENAMED = {  # settings by their former names
    "warm_up": "warmup",
    "clip": "max_grad_norm",
    "averaging": "ema_decay",
    "final_rate": "min_lr_ratio",
    "hottest": "max_logit_scale",
    "begun": "initialize_from_text",
    "between": "separator",
    "lower": "lowercase",
    "positions": "max_position_embeddings",
    "cross_every": "cross_attention_frequency",
    "whole_tokens": "global_tokens",
    "whole_prompts": "global_prompts",
    "colour": "color_jitter",
}


@dataclass(frozen=True)
class Range:
    """The values that a number may have, and how that is said."""

    holds: Callable[[float], bool]
    requirement: str


MORE_THAN_0 = Range(lambda value: value > 0, "must be more than 0")
AT_LEAST_1 = Range(lambda value: value >= 1, "must be at least 1")
NOT_BELOW_0 = Range(lambda value: value >= 0, "must not be below 0")
SHARE = Range(lambda value: 0 <= value <= 1, "must be a share between 0 and 1")


def check_numbers(settings: Any, values: Range, *names: str) -> None:
    """Check those of some settings that are not None.

    Raises:
        InvalidSetting: one is out of its range.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not values.holds(value):
            raise InvalidSetting(f"{name} {value} {values.requirement}")


def read_config(path: Path, kind: type[Kind]) -> Kind:
    """Read a JSON file as the dataclass ``kind``.

    Raises:
        InvalidSetting: the file is missing or not valid JSON, or a setting is unknown, missing, of the wrong type or
            invalid; every one of them is named.
    """
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InvalidSetting(f"{path}: can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InvalidSetting(f"{path}: is not valid JSON ({error})") from error
    return validate(values, kind, str(path))


def validate(values: Any, kind: type[Kind], name: str, inside: str = "") -> Kind:
    """Convert plain values to the dataclass ``kind``; errors start with ``name`` and call settings ``inside.setting``.

    Raises:
        InvalidSetting: as for `read_config`.
    """
    try:
        from pydantic import ConfigDict, TypeAdapter, ValidationError
    except ImportError as error:
        raise MissingExtra("training", "train") from error
    if not isinstance(values, Mapping):
        raise InvalidSetting(f"{name}: must be a JSON object of settings")
    # Nested dataclasses take over the outermost one's config: no unknown settings, and no text in place of a number.
    outermost = make_dataclass("Settings", [("all", kind)])
    outermost.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
    try:
        return TypeAdapter(outermost).validate_json(json.dumps({"all": values})).all
    except ValidationError as error:
        messages = [_message(fault, kind, inside) for fault in error.errors()]
        raise InvalidSetting("\n".join(f"{name}: {message}" for message in dict.fromkeys(messages))) from None


def _message(fault: Any, kind: Any, inside: str) -> str:
    place = [str(part) for part in fault["loc"][1:]]
    dotted = ".".join([*([inside] if inside else []), *place])
    match fault["type"]:
        case "unexpected_keyword_argument":
            known = _known(kind, place[:-1])
            if RENAMED.get(place[-1]) in known:
                return f"{dotted}: this setting is called {RENAMED[place[-1]]} now"
            close = get_close_matches(place[-1], known, 1)
            hint = f"; do you mean {close[0]}?" if close else f"; known are {', '.join(known)}" if known else ""
            return f"{dotted}: there is no such setting{hint}"
        case "missing":
            return f"{dotted}: this setting is required and missing"
        case "value_error":
            return f"{dotted}: {fault['ctx']['error']}" if dotted else str(fault["ctx"]["error"])
        case "dataclass_type":
            return f"{dotted}: must be an object of settings, not {fault['input']!r}"
    return f"{dotted}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, not {json.dumps(fault['input'])}"


def _known(kind: Any, place: list[str]) -> list[str]:
    """Return the names of the settings at a place."""
    for name in place:
        kind = get_type_hints(kind).get(name) if is_dataclass(kind) else None
        if get_origin(kind) in (Union, types.UnionType):
            kind = next((each for each in get_args(kind) if is_dataclass(each)), None)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def flatten(config: Any) -> dict[str, Any]:
    """Return a config's settings as plain JSON values by dotted names, to compare two trainings; without ``about``."""
    flat: dict[str, Any] = {}
    for section, value in json.loads(json.dumps(asdict(config))).items():
        for name, each in value.items() if isinstance(value, dict) else [("", value)]:
            flat[f"{section}.{name}".rstrip(".")] = each
    flat.pop("about", None)
    return flat
