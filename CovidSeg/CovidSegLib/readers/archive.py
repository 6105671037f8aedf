"""Unpack an untrusted zip within limits, into a temporary folder that is always removed, and nowhere else."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..texts import text as _
from .file_names import safe_name
from .inputs import image_suffix

_CHUNK = 1 << 20
_MIB = 1 << 20
#: Leaves room for the temporary folder within the 260 letters of a path on Windows.
_MAX_NAME_BYTES = 150
_SKIPPED_SUFFIXES = (".txt", ".md", ".pdf", ".html", ".xml", ".json", ".csv", ".tsv", ".jpg", ".jpeg", ".png", ".exe")
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class ZipLimits:
    """Limits of a zip. CTs in DICOM or NIfTI are compressed two- to fivefold, mostly empty volumes some fiftyfold.

    Attributes:
        max_files: Entries in the zip.
        max_bytes: Unpacked bytes, counted while unpacking, as the sizes in the zip may be false.
        max_ratio: Unpacked by packed size, checked from `ratio_from_bytes` unpacked bytes on.
        ratio_from_bytes: With less output than this, a high ratio is harmless.
    """

    max_files: int = 50_000
    max_bytes: int = 8 << 30
    max_ratio: float = 200.0
    ratio_from_bytes: int = 64 << 20


@contextmanager
def extracted(path: Path, *, limits: ZipLimits | None = None, inside: Path | None = None) -> Iterator[list[Path]]:
    """Unpack a zip into a temporary folder, yield its files in the zip's order, and remove the folder afterwards.

    Entries are written side by side under their cleaned base names (in a numbered folder if a name repeats), so that no
    name in the zip decides where a file is written; names that lead outside are refused even so.

    Args:
        path: The zip.
        limits: What it may hold; the defaults of `ZipLimits` if None.
        inside: The folder in which the temporary folder is created; the system's if None.

    Raises:
        InputError: It is no zip, damaged, encrypted, has paths that lead outside, or links, or exceeds the limits.
        OSError: The disk is full.
    """
    limits = limits or ZipLimits()
    with tempfile.TemporaryDirectory(prefix="covidseg-zip-", dir=inside, ignore_cleanup_errors=True) as folder:
        yield _extract_all(path, Path(folder), limits=limits)


def lists_images(path: Path) -> bool:
    """Tell whether a zip lists NIfTI, NRRD or MetaImage files; nothing is unpacked.

    Raises:
        zipfile.BadZipFile, OSError: Not a zip, or it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    return any(_is_wanted(name) and image_suffix(Path(name)) for name in names)


def _extract_all(path: Path, folder: Path, *, limits: ZipLimits) -> list[Path]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > limits.max_files:
                text = _("{file}: the zip holds {count} files, more than {limit}. Give one CT.")
                raise InputError(text.format(file=path, count=len(entries), limit=limits.max_files))
            for entry in entries:
                _check_entry(entry, path=path)
            wanted = [entry for entry in entries if _is_wanted(entry.filename) and not entry.is_dir()]
            room = min(limits.max_bytes, shutil.disk_usage(folder).free - 64 * _MIB)
            if sum(entry.file_size for entry in wanted) > room:
                text = _(
                    "{file}: unpacked, the zip would take more than {size:.0f} MiB, the limit or the free "
                    "space of the temporary folder. Unpack the CT yourself and give the folder."
                )
                raise InputError(text.format(file=path, size=room / _MIB))
            return _extract_entries(archive, wanted, folder=folder, path=path, room=room, limits=limits)
    except InputError:
        raise
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        text = _("{file}: the zip is damaged or incomplete ({kind}: {reason}). Copy or download it again.")
        raise InputError(text.format(file=path, kind=type(error).__name__, reason=str(error))) from error


def _check_entry(entry: zipfile.ZipInfo, *, path: Path) -> None:
    name = entry.filename.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in PurePosixPath(name).parts or "\0" in name:
        text = _("{file}: an entry leads out of the zip ({entry!r}). Do not trust this file.")
        raise InputError(text.format(file=path, entry=entry.filename))
    mode = entry.external_attr >> 16
    if stat.S_ISLNK(mode):
        text = _("{file}: the zip holds a link ({entry!r}). Zip the files themselves.")
        raise InputError(text.format(file=path, entry=entry.filename))
    if entry.flag_bits & 0x1:
        text = _("{file}: the zip is encrypted. Unpack it with its password and give the folder.")
        raise InputError(text.format(file=path))
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        text = _("{file}: unusual compression in {entry!r}. Zip the folder again the ordinary way.")
        raise InputError(text.format(file=path, entry=entry.filename))


def _is_wanted(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
        return False
    return not parts[-1].lower().endswith(_SKIPPED_SUFFIXES)


def _safe_name(entry: zipfile.ZipInfo) -> str:
    """Return a file name that every system accepts; ordinary ones are kept, as a header names its data file."""
    name = PurePosixPath(entry.filename.replace("\\", "/")).name
    while len(name.encode()) > _MAX_NAME_BYTES:
        name = name[1:]  # the end tells the format
    return safe_name(name.lstrip(" .")) or "file"


def _extract_entries(
    archive: zipfile.ZipFile,
    entries: list[zipfile.ZipInfo],
    *,
    folder: Path,
    path: Path,
    room: int,
    limits: ZipLimits,
) -> list[Path]:
    packed = max(path.stat().st_size, 1)
    written = 0
    files: list[Path] = []
    taken: set[str] = set()
    for number, entry in enumerate(entries):
        target = folder / _safe_name(entry)
        key = unicodedata.normalize("NFC", target.name).casefold()  # file systems may tell neither case nor accents
        if key in taken:  # only if needed, as a folder costs time
            target = folder / f"{number:06d}.d" / target.name
            target.parent.mkdir()
        taken.add(key)
        with archive.open(entry) as source, target.open("wb") as sink:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > room or (written > limits.ratio_from_bytes and written > limits.max_ratio * packed):
                    text = _(
                        "{file}: the zip expands absurdly (over {unpacked:.0f} MiB from {packed:.1f} MiB "
                        "at {entry!r}). If it is a CT, unpack it and give the folder."
                    )
                    values = {"unpacked": written / _MIB, "packed": packed / _MIB, "entry": entry.filename}
                    raise InputError(text.format(file=path, **values))
                sink.write(chunk)
        files.append(target)
    return files
