"""Put any error into one line for people: what is wrong, where, and what to do."""

from __future__ import annotations

import errno

from .errors import Cancelled, CovidSegError

_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException) -> str:
    """Return the error as one line with cause and remedy."""
    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return "stopped by the user; run the same command again to go on"
    if isinstance(error, CovidSegError):
        return one_line(str(error))
    if isinstance(error, MemoryError):
        return "not enough memory: close other programs, use fewer --workers, or --mode fast"
    if isinstance(error, OSError):
        return _explain_os_error(error)
    return one_line(f"unexpected {type(error).__name__}: {error} (a fault in CovidSeg: report what --verbose prints)")


def one_line(text: str) -> str:
    """Return the text with line breaks and runs of spaces folded."""
    return " ".join(text.split())


def _explain_os_error(error: OSError) -> str:
    place = f" '{error.filename}'" if error.filename else ""
    if error.errno in _DISK_FULL:
        return "the disk is full: free some space and run the command again (nothing half-written is left)"
    if error.errno in _NOT_ALLOWED:
        return f"no permission for{place or ' a file'}: check its rights, close programs using it, or choose another -o"
    return one_line(f"{error.strerror or error}{place}: check the disk and the path, then run the command again")
