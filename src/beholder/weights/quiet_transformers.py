"""transformers without its progress bars and notes on standard error, for as long as a block runs."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_lock = threading.Lock()
_blocks = 0  # that are running, in all threads
_restore: list[Callable[[], object]] = []


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers within the block and in this thread only.

    What other threads show meanwhile, and everybody's settings afterwards, stay as they were.
    """
    global _blocks
    with _lock:
        if _blocks == 0:
            _install()
        _blocks += 1
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                while _restore:
                    _restore.pop()()


def _install() -> None:
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging as transformers_logging

    previous = transformers_logging.set_tqdm_hook(None)

    def bar(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _quiet.get():
            return transformers_logging.EmptyTqdm(*args, **kwargs)
        return previous(factory, args, kwargs) if previous is not None else factory(*args, **kwargs)

    transformers_logging.set_tqdm_hook(bar)
    _restore.append(lambda: transformers_logging.set_tqdm_hook(previous))

    gguf_bar = gguf.tqdm  # of tqdm itself, out of reach of the hook
    gguf.tqdm = lambda *args, **kwargs: args[0] if _quiet.get() else gguf_bar(*args, **kwargs)
    _restore.append(lambda: setattr(gguf, "tqdm", gguf_bar))

    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(_only_errors)
        _restore.append(lambda handler=handler: handler.removeFilter(_only_errors))  # type: ignore[misc]


def _only_errors(record: logging.LogRecord) -> bool:
    return not _quiet.get() or record.levelno >= logging.ERROR
