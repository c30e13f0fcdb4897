"""Download progress, reported to a listener; the library itself shows nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Listener = Callable[[str, int, int | None], None]
"""Called with what is downloaded, the bytes so far, and the bytes in all where they are known."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report the downloads of this block to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(name: str, done: int, total: int | None) -> None:
    """Report the progress of a download to the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(name, done, total)


def reporting_bar(name: str) -> type[Any]:
    """Return a class for huggingface_hub in place of its progress bars: shows nothing, and reports the bytes."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    listener = _listener.get()  # of this thread: downloads run in others

    class Nowhere:
        def write(self, text: str) -> None:
            pass

        def flush(self) -> None:
            pass

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any):
            options.pop("name", None)
            super().__init__(*args, **{**options, "file": Nowhere(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            if listener is not None and self.unit == "B" and str(self.desc).startswith("Downloading"):
                listener(name, int(self.n), int(self.total) if self.total else None)
            return drawn

    return Bar
