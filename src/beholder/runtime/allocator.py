"""Memory allocation of a long-running process."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for reuse, in one arena for all threads; return False with another C library.

    By default, glibc returns large blocks to the system and requests them again, page by page, for the next layer's
    output. On a CPU, a batch of images then spends more time on that than on the network. The setting affects the
    whole process, so it is for programs rather than for a library; call it before threads start.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_MMAP_MAX, 0) and mallopt(_ARENA_MAX, 1))
