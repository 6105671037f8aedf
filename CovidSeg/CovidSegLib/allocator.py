"""Keep freed memory for the next patch while the network runs on the CPU (glibc only).

glibc gives every block above a threshold of at most 32 MB its own mapping, and gives it back to
the system as soon as it is freed. The network's activations are larger than that, so each patch
pays for hundreds of thousands of page faults again: a quarter to a third of the network's time
(`make bench`). Where the C library is another one, nothing is changed.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

#: Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
#: The most that glibc's own dynamic rule sets, which it reaches once a block of 32 MB was freed. The rule is
#: off once any of these was set, and cannot be switched on again, so this is where the process is left.
_DYNAMIC_LIMIT_BYTES = 32 * 1024 * 1024
_DEFAULT_MMAP_MAX = 65536


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let freed blocks of any size be used again without asking the system; give all back at the end.

    It acts on the whole process, yet only the main thread gains: glibc serves other threads from
    arenas of at most 64 MB, and larger blocks there keep mappings of their own. Two of these at
    once do no harm: the first to end ends the gain for both.
    """
    calls = _glibc()
    if calls is None:
        yield
        return
    set_option, give_back = calls
    set_option(M_MMAP_MAX, 0)
    set_option(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        set_option(M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        set_option(M_MMAP_THRESHOLD, _DYNAMIC_LIMIT_BYTES)
        set_option(M_TRIM_THRESHOLD, 2 * _DYNAMIC_LIMIT_BYTES)
        give_back(0)


@cache
def _glibc() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    """Return glibc's mallopt and malloc_trim, None with another C library."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    try:
        set_option, give_back = library.mallopt, library.malloc_trim
    except AttributeError:
        return None
    set_option.argtypes, set_option.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    give_back.argtypes, give_back.restype = (ctypes.c_size_t,), ctypes.c_int
    return set_option, give_back
