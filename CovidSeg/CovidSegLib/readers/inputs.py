"""What a path given by the user stands for: its case name, its files, the fingerprint of their bytes.

Nothing here decodes an image. Reading is in `volume`, unpacking in `archive`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from ..errors import InputError
from ..texts import text as _

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
NAMED_SUFFIXES = (*IMAGE_SUFFIXES, ".zip", *DICOM_SUFFIXES)
#: A file of this name is a case that is named after its folder.
IMAGING_STEM = "imaging"
SUPPORTED = _("NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), a DICOM folder or a zip of one")

#: Folders that macOS leaves in zips, and Windows and Linux on every drive (deleted files among them), in lower case.
SYSTEM_FOLDERS = ("__macosx", "$recycle.bin", "system volume information", "lost+found")

#: How far a MetaImage or NRRD header is read; those of segmentations of a hundred organs have some 100 kB.
MAX_HEADER_BYTES = 1 << 22
_CHUNK_BYTES = 1 << 20


def image_suffix(path: Path) -> str | None:
    """Return the image extension of `path` in lower case (`.nii.gz` as one), or None if it has none of ours."""
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), None)


def case_name(path: str | Path) -> str:
    """Return the case's name: file name without extension, folder name, the parent's name for `imaging.*`.

    Never taken from DICOM identity.
    """
    path = Path(os.path.abspath(path))  # gives "." and ".." a name, and keeps that of a link
    if path.is_dir():
        return path.name or "case"
    stem = stem_of(path.name)
    if stem.lower() == IMAGING_STEM:
        return path.parent.name or stem
    return stem or "case"


def stem_of(file_name: str) -> str:
    """Return the file name without its image or DICOM extension; other dots are part of the name."""
    lower = file_name.lower()
    suffix = next((suffix for suffix in NAMED_SUFFIXES if lower.endswith(suffix)), "")
    return file_name[: len(file_name) - len(suffix)]


def imaging_file_in(folder: Path) -> Path | None:
    """Return the `imaging.*` in a folder, which then stands for the folder; None if there is none.

    Raises:
        InputError: Several files are called `imaging.*`.
    """
    found = sorted(
        entry
        for entry in folder.iterdir()
        if (suffix := image_suffix(entry)) and entry.name.lower() == f"{IMAGING_STEM}{suffix}" and entry.is_file()
    )
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        text = _("{folder}: several images claim to be the CT ({names}). Keep one, or give the file itself.")
        raise InputError(text.format(folder=folder, names=names))
    return found[0] if found else None


def files_under(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders in a stable order, without hidden ones and SYSTEM_FOLDERS.

    Links are followed, each folder is taken once, and none that the given one lies in.

    Raises:
        OSError: A folder cannot be read, of which a whole series might be missing.
    """
    found: list[Path] = []
    visited: set[str] = set()
    top = os.path.realpath(folder)
    for root, folders, names in os.walk(folder, onerror=_fail, followlinks=True):
        real = os.path.realpath(root)
        if real in visited or top.startswith(real.rstrip(os.sep) + os.sep):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _is_passed_over(Path(root, name)))
        found += [path for name in sorted(names) if not name.startswith(".") and (path := Path(root, name)).is_file()]
    return found


def _is_passed_over(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name.lower() in SYSTEM_FOLDERS or is_windows_own(folder)


def is_windows_own(path: Path) -> bool:
    """Tell whether Windows reserves the entry, such as "System Volume Information", or "My Music" in Documents."""
    try:
        attributes = getattr(path.lstat(), "st_file_attributes", 0)
    except OSError:
        return False
    return bool(attributes & stat.FILE_ATTRIBUTE_HIDDEN and attributes & stat.FILE_ATTRIBUTE_SYSTEM)


def _fail(error: OSError) -> NoReturn:
    raise error


def looks_like_dicom(path: Path) -> bool:
    """Tell from its first 132 bytes whether a file is DICOM: by the prefix DICM, or by group 8 of an old file."""
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    return head[128:132] == b"DICM" or (head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and len(head) == 132)


def detached_data_files(header: Path) -> list[Path]:
    """Return the data files that a MetaImage or NRRD header names, in its folder; empty for other files.

    A detached header (`.mhd`, `.nhdr`) has to name one; `.mha` and `.nrrd` may.

    Raises:
        InputError: A named data file is not there, or lies outside the header's folder.
    """
    suffix = image_suffix(header)
    if suffix not in (".mhd", ".nhdr", ".mha", ".nrrd"):
        return []
    with header.open("rb") as stream:
        raw = stream.read(MAX_HEADER_BYTES)
    if suffix == ".nrrd":
        raw = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[0]  # voxels follow the empty line
    text = raw.decode("latin-1")
    match = re.search(r"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(.+?)[ \t]*$(.*)", text, re.MULTILINE | re.DOTALL)
    if match is None and suffix in (".mha", ".nrrd"):
        return []
    if match is None:
        message = _("{file}: the header names no data file. Convert the CT to .nrrd or .nii.gz again.")
        raise InputError(message.format(file=header))
    first, rest = _decoded(match.group(1)).splitlines()[0].strip(), match.group(2)
    if first.upper() == "LOCAL":
        return []
    if first.upper().startswith("LIST"):
        names = [line.strip() for line in _decoded(rest).splitlines() if line.strip()]
    elif "%" in first:
        names = [entry.name for entry in sorted(header.parent.iterdir()) if _fits_pattern(entry.name, pattern=first)]
    else:
        names = [first]
    return [_data_file(header, name=name) for name in names]


def _decoded(names: str) -> str:
    """Return names read as Latin-1 in their true encoding: ITK and Slicer write UTF-8, others Latin-1."""
    try:
        return names.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return names


def _fits_pattern(name: str, *, pattern: str) -> bool:
    parts = re.split(r"%0?\d*d", pattern.split()[0])
    return re.fullmatch(r"\d+".join(re.escape(part) for part in parts), name) is not None


def _data_file(header: Path, *, name: str) -> Path:
    folder = header.parent.resolve()
    data = None if "\0" in name else (folder / name).resolve()  # of which `resolve` would raise ValueError
    if data is None or not data.is_relative_to(folder) or not data.is_file():
        text = _(
            "{file}: its data file {name!r} is not beside it. Copy both files into one folder, "
            "or save the CT as one .nrrd or .nii.gz."
        )
        raise InputError(text.format(file=header, name=name))
    return data


def fingerprint_of(path: str | Path) -> str:
    """Return `sha256:...` of an input's bytes, without decoding pixels.

    Of a file or zip, its bytes are hashed (for a detached header, its data files' too). Of a folder, its `imaging.*` if
    there is one, otherwise its DICOM files (all files if none is DICOM), each by itself, and the hashes sorted: names
    and the folder's place do not matter, nor do results written below the folder.

    Raises:
        InputError: The path is missing, cannot be read, or is an empty folder.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(_("{path}: no such file or folder. Check the path.").format(path=path))
        if not path.is_dir():
            return _joint_fingerprint([path, *detached_data_files(path)])
        imaging = imaging_file_in(path)
        if imaging is not None:
            return _joint_fingerprint([imaging, *detached_data_files(imaging)])
        files = files_under(path)
    except OSError as error:
        raise unreadable(path, error=error) from error
    if not files:
        raise InputError(_("{path}: the folder is empty. Give {formats}.").format(path=path, formats=SUPPORTED))
    return _joint_fingerprint([file for file in files if looks_like_dicom(file)] or files, many=True)


def unreadable(path: Path, *, error: OSError) -> InputError:
    """Return the error for a file that the system does not let us read."""
    text = _("{path}: cannot be read ({reason}). Check the file's permissions.")
    return InputError(text.format(path=path, reason=error.strerror or str(error)))


def _joint_fingerprint(files: Iterable[Path], *, many: bool = False) -> str:
    digests = [_digest(file) for file in files]
    if len(digests) == 1 and not many:
        return f"sha256:{digests[0]}"
    return "sha256:" + hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise unreadable(path, error=error) from error
    return digest.hexdigest()
