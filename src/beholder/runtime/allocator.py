"""Memory allocation of a long-running process."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for reuse, in one arena for all threads; return False with another C library.

    What is never reused stays, too: a program that runs for days calls `return_unused_memory`.

    By default, glibc returns large blocks to the system and requests them again, page by page, for the next layer's
    output. On a CPU, a batch of images then spends more time on that than on the network. The setting affects the
    whole process, so it is for programs rather than for a library; call it before threads start.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and bool(
        mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_MMAP_MAX, 0) and mallopt(_ARENA_MAX, 1)
    )


class _Usage(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h; the field names are glibc's."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    )


def return_unused_memory(most: int) -> int:
    """Return freed memory to the system, if it is more than ``most`` bytes; return how much was free.

    Blocks of ever-changing sizes leave gaps that few later ones fit into, so without this a server would grow to
    several times what it uses.
    """
    usage, trim = _glibc("mallinfo2"), _glibc("malloc_trim")
    if usage is None or trim is None:
        return 0
    usage.restype = _Usage
    free = int(usage().fordblks)
    if free > most:
        trim(0)
    return free


def keep_returning_unused_memory(most: int, seconds: float) -> threading.Event:
    """Call `return_unused_memory` every so many seconds in a thread, until the event is set."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            return_unused_memory(most)

    threading.Thread(target=run, name="allocator", daemon=True).start()
    return stop


def _glibc(name: str) -> Any:
    """Return a function of glibc, or None with another C library or an older one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
