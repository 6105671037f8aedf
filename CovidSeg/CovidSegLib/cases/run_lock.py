"""One run at a time per output folder: a lock that the operating system frees even after a kill."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import InputError
from ..texts import text as _

LOCK_NAME = ".covidseg.lock"


@contextlib.contextmanager
def run_lock(out_dir: Path) -> Iterator[None]:
    """Hold the output folder while a run writes to it.

    Where the file system knows no locks (some network shares), the run goes on without.

    Raises:
        InputError: Another run is writing to the folder.
    """
    path = out_dir / LOCK_NAME
    stream = _open_locked(path)
    try:
        yield
    finally:
        if stream is not None:
            # POSIX: removed while held, so no other run can be holding it. Windows: only once closed.
            if sys.platform == "win32":
                stream.close()
            with contextlib.suppress(OSError):
                path.unlink()
            stream.close()


def _open_locked(path: Path) -> IO[bytes] | None:
    while True:
        stream = path.open("ab")
        try:
            _lock(stream)
        except BlockingIOError:
            stream.close()
            raise InputError(
                _(
                    "another CovidSeg run is writing to '{folder}': wait for it, or choose another output folder "
                    "(-o OUT)."
                ).format(folder=path.parent)
            ) from None
        except OSError:
            stream.close()
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        if _is_still_at(path, stream):
            return stream
        stream.close()  # the former holder removed the file between our opening and locking it


def _lock(stream: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still_at(path: Path, stream: IO[bytes]) -> bool:
    if sys.platform == "win32":
        return True  # nobody removes an open file there, and some network drives number a file anew whenever asked
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
