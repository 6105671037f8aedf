"""Files that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from CovidSegLib.cases.folder import replace_file

#: What reading a damaged `.npz` raises.
DAMAGED_NPZ = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; afterwards the file is renamed to `path`, or deleted if anything was raised.

    The path to write to is `<name>.part`, in a folder that is made if need be; the next write replaces what a killed
    run left there. The engine's `new_file` differs: it takes another name each time, with the ending of an image, by
    which ITK chooses the format, and leaves what a killed run left to `recover`.

    Raises:
        IsADirectoryError: There is a folder of this name; nothing has been written then.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        yield aside
        replace_file(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and the folder for it."""
    with whole_file(path) as aside:
        aside.write_bytes(content)
