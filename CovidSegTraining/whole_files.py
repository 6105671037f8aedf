"""Files that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from CovidSegLib.case_folder import replace_file

#: What reading a damaged `.npz` raises.
DAMAGED_NPZ = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file becomes `path` afterwards, or goes if anything was raised meanwhile.

    The path is `<name>.part`, in a folder that is made if need be: what a killed run left goes with the next write. The
    engine's `new_file` gives a name of its own each time, as ITK wants it for images, and relies on `recover`.

    Raises:
        IsADirectoryError: There is a folder of this name; said before anything is made.
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
