"""Case folders that appear whole or not at all, also after a kill, also on Windows.

A case is written into a hidden sibling `.<case>.partial-<token>` and renamed when complete. A
folder it replaces is first renamed to `.<case>.old-<token>` and deleted last. So at any moment a
crash leaves one of three states, which `recover` settles at the next start:

    partial only, or beside the case   -> the partial is deleted (undone)
    old and partial, no case           -> the old folder is put back, the partial deleted (undone)
    old beside the case                -> the old folder is deleted (finished)

No folder is ever renamed onto an existing one (Windows refuses), and nothing relies on syncing
directories (Windows cannot).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..readers.inputs import IMAGE_SUFFIXES, image_suffix
from ..texts import Text
from ..texts import text as _

_SUFFIXES = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
_LEFTOVER = re.compile(rf"^\.(?P<name>.+)\.(?P<kind>partial|old)-[0-9a-f]{{12}}({_SUFFIXES})?$", re.DOTALL)
# What file systems answer that know no sync; a full disk, found out only now, must be told.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EROFS)
# Virus scanners and search indexers hold new files open for a moment; Windows then refuses to rename.
_RENAME_TRIES = 6
_RENAME_PAUSE_S = 0.2


@contextlib.contextmanager
def new_case_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to write a case into; on leaving without an error it becomes `target`.

    An existing `target` stays untouched until then, and for good if an error (or Ctrl-C) comes first.

    Raises:
        OSError: The folder cannot be written or renamed.
    """
    token = secrets.token_hex(6)
    partial = target.with_name(f".{target.name}.partial-{token}")
    try:
        partial.mkdir()
        yield partial
        _flush_files(partial)
        _put_in_place(partial, target=target, old=target.with_name(f".{target.name}.old-{token}"))
    except BaseException as error:
        delete_tree(partial)
        _name_in_place(error, partial=partial, target=target)
        raise


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yield a path to write a file to; on leaving without an error it replaces `target` in one step.

    The path is another one each time, and ends as an image's name does if `target` is one: ITK chooses the format by
    it. What a kill leaves is for `recover`.
    """
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(6)}{image_suffix(target) or ''}")
    try:
        yield partial
        replace_file(partial, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        _name_in_place(error, partial=partial, target=target)
        raise


@contextlib.contextmanager
def file_named(path: Path) -> Iterator[Path]:
    """Have errors of the system name the file that is written: those of writing, unlike those of opening, do not."""
    try:
        yield path
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def replace_file(source: Path, target: Path) -> None:
    """Put a file in the place of another one in one step; wait a little for programs that hold either open.

    Raises:
        OSError: It cannot be put there; where `target` is in use, as a table in a spreadsheet is, `target` is named.
    """
    try:
        _patiently(lambda: os.replace(source, target))
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(target)) from error


def recover(out_dir: Path) -> list[Text]:
    """Finish or undo what a killed run left in `out_dir`; return a line on each case put back.

    Only call it while no other run writes there (see `run_lock`).
    """
    leftovers = sorted((match["name"], match["kind"], path) for match, path in _leftovers(out_dir))
    restored = []
    for name, kind, path in leftovers:  # of one case, "old" sorts before "partial"
        target = out_dir / name
        if kind == "old" and not os.path.lexists(target):
            _rename(path, target)
            restored.append(_("{case}: an interrupted replacement was undone").format(case=name))
        else:
            delete_tree(path)
    return restored


def delete_tree(path: Path) -> None:
    """Delete a file or folder as far as possible; what resists is left for the next start's `recover`."""
    if path.is_symlink() or path.is_file():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # read-only files stop Windows
        for entry in [path, *path.rglob("*")]:
            with contextlib.suppress(OSError):
                entry.chmod(entry.stat().st_mode | stat.S_IWUSR)
        shutil.rmtree(path, ignore_errors=True)


def is_leftover(file_name: str) -> bool:
    """Tell whether a file or folder of this name is what a killed run left half-written."""
    return _LEFTOVER.match(file_name) is not None


def _leftovers(out_dir: Path) -> Iterator[tuple[re.Match[str], Path]]:
    for path in out_dir.iterdir():
        match = _LEFTOVER.match(path.name)
        if match:
            yield match, path


def _flush_files(folder: Path) -> None:
    """Have the files on the disk before the rename that declares them complete, where that is possible."""
    for path in folder.iterdir():
        if path.is_file():
            with file_named(path), path.open("rb+") as stream:
                try:
                    os.fsync(stream.fileno())
                except OSError as error:
                    if error.errno not in _CANNOT_SYNC:
                        raise


def _name_in_place(error: BaseException, *, partial: Path, target: Path) -> None:
    """Have an error of the system name what the user knows, `target` or a file in it, not what was written aside."""
    if isinstance(error, OSError) and error.errno is not None:
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else partial
        if path.is_relative_to(partial):
            error.filename = str(target / path.relative_to(partial))


def _put_in_place(partial: Path, *, target: Path, old: Path) -> None:
    if not os.path.lexists(target):
        _rename(partial, target)
        return
    _rename(target, old)
    try:
        _rename(partial, target)
    except BaseException:
        if not os.path.lexists(target):
            _rename(old, target)
        raise
    delete_tree(old)


def _rename(source: Path, target: Path) -> None:
    """Rename onto a name that is free; wait a little for programs that hold the source open."""
    _patiently(lambda: source.rename(target))


def _patiently(rename: Callable[[], object]) -> None:
    for attempt in range(_RENAME_TRIES):
        try:
            rename()
            return
        except PermissionError:
            if attempt == _RENAME_TRIES - 1:
                raise
            time.sleep(_RENAME_PAUSE_S)
