"""Where a model was loaded from, so that another process can load it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from beholder.errors import InvalidSetting, ModelError


class Origin:
    """The arguments of a `from_pretrained` call; a folder is remembered by its absolute path.

    Raises:
        InvalidSetting: the name is neither a str nor a Path.
    """

    def __init__(self, name: str | Path, **arguments: Any):
        if not isinstance(name, str | Path):
            raise InvalidSetting(f"a model is named by a str or a Path, not {type(name).__name__}")
        path = Path(name).expanduser()
        self.name = str(path.absolute()) if path.is_dir() else str(name)
        self.arguments = arguments


class Reloadable:
    """A model that pickles as its origin: unpickling loads it again, from the same folder, name or hub id."""

    origin: Origin | None = None

    def _loaded_from(self, origin: Origin) -> Self:
        self.origin = origin
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.origin is None:
            raise ModelError(
                "only a model that from_pretrained has loaded can be pickled; save this one with save_pretrained, and "
                "pickle what from_pretrained loads from that folder"
            )
        return _reload, (type(self), self.origin.name, self.origin.arguments)


def _reload(kind: Any, name: str, arguments: dict[str, Any]) -> Any:
    return kind.from_pretrained(name, **arguments)
