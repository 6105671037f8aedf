"""Explain any error to the user in one line: what is wrong, where, and what to do."""

from __future__ import annotations

import errno

from .errors import Cancelled, CovidSegError
from .texts import Text
from .texts import text as _

_EXPECTED = (CovidSegError, KeyboardInterrupt, MemoryError, OSError)
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException) -> str:
    """Return the error as one line with cause and remedy."""
    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return _("stopped by the user; run the same command again to go on")
    if isinstance(error, CovidSegError):
        return one_line(error.text)
    if isinstance(error, MemoryError):
        return _("not enough memory: close other programs, use fewer workers (--workers), or mode fast")
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if _is_full_gpu(error):
        return _("not enough memory on the GPU: close other programs that use it, or choose the CPU (--device cpu)")
    problem = one_line(f"{type(error).__name__}: {error}")
    return _("unexpected {problem} (a fault in CovidSeg: report it with its details)").format(problem=problem)


def is_unexpected(error: BaseException) -> bool:
    """Tell whether the error is a fault of the program, so that its traceback is needed."""
    return not isinstance(error, _EXPECTED) and not _is_full_gpu(error)


def _is_full_gpu(error: BaseException) -> bool:
    # By name, so that torch need not be imported.
    return type(error).__name__ == "OutOfMemoryError"


def one_line(text: str) -> str:
    """Return the text on one line, its line breaks and the blanks around them folded; a `Text` stays a `Text`.

    Blanks within a line stay as they are: they may be part of a file name.
    """
    if text.splitlines() in ([], [text]):
        return text
    folded = " ".join(line.strip() for line in text.splitlines() if line.strip())
    if not isinstance(text, Text):
        return folded
    values = {name: _value_in_one_line(value) for name, value in text.values.items()}
    return Text(folded, template=one_line(text.template), values=values, source=text.source)


def _value_in_one_line(value: object) -> object:
    """Return a value for a text on one line: unchanged, such as a number to format, if it is on one line already."""
    english = value if isinstance(value, str) else str(value)
    folded = one_line(english)
    return value if folded == english else folded


def _explain_os_error(error: OSError) -> str:
    if error.errno in _DISK_FULL and error.filename:
        text = _(
            "the disk is full: free some space and run it again ('{file}' cannot be written; nothing half-written is "
            "left)"
        )
        return one_line(text.format(file=error.filename))
    if error.errno in _DISK_FULL:
        return _("the disk is full: free some space and run it again (nothing half-written is left)")
    if error.errno in _NOT_ALLOWED and error.filename:
        text = _(
            "no permission for '{file}': check its rights, close programs using it, or choose another output folder "
            "(-o OUT)"
        )
        return text.format(file=error.filename)
    if error.errno in _NOT_ALLOWED:
        return _(
            "no permission for a file: check its rights, close programs using it, or choose another output folder "
            "(-o OUT)"
        )
    reason = error.strerror or str(error)
    if error.filename:
        text = _("{reason} '{file}': check the disk and the path, then run it again")
        return one_line(text.format(reason=reason, file=error.filename))
    return one_line(_("{reason}: check the disk and the path, then run it again").format(reason=reason))
