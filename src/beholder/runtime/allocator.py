"""How memory that a network has used is kept for its next batch."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, in one place for all threads, until the process ends; False where it is not glibc.

    By default it gives large blocks back at once and asks for them anew, page by page, for the next layer's output. On
    a CPU a batch of pictures then spends more time on that than on the network, and one picture at a time is faster. It
    changes the whole process, so it is for programs, not for a library, and to be called before threads begin.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_MMAP_MAX, 0) and mallopt(_ARENA_MAX, 1))
