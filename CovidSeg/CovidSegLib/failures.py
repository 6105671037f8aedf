"""Put any error into one line for people: what is wrong, where, and what to do."""

from __future__ import annotations

import errno

from .errors import Cancelled, CovidSegError
from .texts import text as _

_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException) -> str:
    """Return the error as one line with cause and remedy."""
    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return _("stopped by the user; run the same command again to go on")
    if isinstance(error, CovidSegError):
        return one_line(error.text)
    if isinstance(error, MemoryError):
        return _("not enough memory: close other programs, use fewer --workers, or --mode fast")
    if isinstance(error, OSError):
        return _explain_os_error(error)
    problem = one_line(f"{type(error).__name__}: {error}")
    return _("unexpected {problem} (a fault in CovidSeg: report what --verbose prints)").format(problem=problem)


def one_line(text: str) -> str:
    """Return the text with line breaks and runs of spaces folded; itself if it has none, so that it stays a `Text`."""
    folded = " ".join(text.split())
    return text if text == folded else folded


def _explain_os_error(error: OSError) -> str:
    if error.errno in _DISK_FULL:
        return _("the disk is full: free some space and run the command again (nothing half-written is left)")
    if error.errno in _NOT_ALLOWED and error.filename:
        text = _("no permission for '{file}': check its rights, close programs using it, or choose another -o")
        return text.format(file=error.filename)
    if error.errno in _NOT_ALLOWED:
        return _("no permission for a file: check its rights, close programs using it, or choose another -o")
    place = f" '{error.filename}'" if error.filename else ""
    text = _("{reason}{place}: check the disk and the path, then run the command again")
    return one_line(text.format(reason=error.strerror or str(error), place=place))
