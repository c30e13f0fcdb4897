"""How far a download is, reported to whoever listens; the library itself shows nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
    """Tell the listener, if there is one, how far a download is."""
    listener = _listener.get()
    if listener is not None:
        listener(name, done, total)
