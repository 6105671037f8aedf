"""Tell kinds of files apart by content: DICOM, a zip of DICOM, a labelmap among images."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .dicom_elements import text_of
from .file_names import is_encodable
from .inputs import DICOM_SUFFIXES, looks_like_dicom
from .sitk_quiet import quiet_itk

if TYPE_CHECKING:
    import numpy as np

_DICOM_MAGIC_AT = 128
_DICOM_MAGIC = b"DICM"
_STUDY_INSTANCE_UID = (0x0020, 0x000D)
_NUMBER_OF_FRAMES = (0x0028, 0x0008)
_ZIP_MEMBERS_TRIED = 50
# A CT slice has hundreds of grey values; labelmaps of all lung lobes or of a whole body's organs stay below.
_MAX_LABELS = 32
# The first slice is the cheapest to reach in a compressed file, and settles it for nearly every CT.
_SLICES_TRIED = (0.0, 0.25, 0.5, 0.75)


def is_dicom_file(path: Path) -> bool:
    """Tell whether the file starts as DICOM does, or is named as DICOM: a damaged one is still a case."""
    return path.suffix.lower() in DICOM_SUFFIXES or looks_like_dicom(path)


def study_of(path: Path) -> str:
    """Return the study instance UID of a DICOM file, to tell studies apart; "" if it has none."""
    try:
        return text_of(path, tag=_STUDY_INSTANCE_UID)
    except OSError:  # reading the case will tell
        return ""


def is_slice(path: Path) -> bool:
    """Tell whether the file is readable DICOM of a single image: it does not state several frames."""
    if not is_dicom_file(path):
        return False
    try:
        frames = text_of(path, tag=_NUMBER_OF_FRAMES)
    except OSError:  # reading the case will tell
        return False
    return not (frames.isdecimal() and int(frames) > 1)


def is_dicom_zip(path: Path) -> bool:
    """Tell whether a zip seems to hold DICOM; a damaged zip counts, so that its case fails visibly."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()][:_ZIP_MEMBERS_TRIED]
            return any(_is_dicom_member(archive, info) for info in members)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
        return True


def _is_dicom_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    if info.filename.lower().endswith(DICOM_SUFFIXES):
        return True
    with archive.open(info) as stream:
        return stream.read(_DICOM_MAGIC_AT + 4)[_DICOM_MAGIC_AT:] == _DICOM_MAGIC


def is_labelmap(path: Path) -> bool:
    """Tell whether a volume file holds labels: few distinct values, all whole and not negative, in a few slices.

    For nearly every CT the first slice settles it, so that a folder of a thousand files is searched
    quickly. A file that cannot be read does not count as a labelmap: its case then fails with the reason.
    """
    if ".seg." in path.name.lower():
        return True
    if not is_encodable(path):
        return False
    try:
        with quiet_itk(), _apart(path) as readable:
            return _holds_labels(readable)
    except (RuntimeError, OSError):
        return False


@contextmanager
def _apart(path: Path) -> Iterator[Path]:
    """Give the file itself, or a copy if an `a.nii` lies beside an `a.nii.gz`: ITK would read the former instead."""
    if not (path.name.lower().endswith(".nii.gz") and path.with_suffix("").is_file()):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copyfile(path, Path(folder) / "apart.nii.gz"))


def _holds_labels(path: Path) -> bool:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        return False
    size_ijk = reader.GetSize()
    values: set[float] = set()
    for share in _SLICES_TRIED:
        reader.SetExtractIndex([0, 0, round(share * (size_ijk[2] - 1))])
        reader.SetExtractSize([size_ijk[0], size_ijk[1], 1])
        values |= _some_values(sitk.GetArrayFromImage(reader.Execute()))
        if not _are_labels(values):
            return False
    # Empty masks are common as bytes; any other constant volume is a broken CT that should be named.
    return len(values) > 1 or reader.GetPixelID() in (sitk.sitkUInt8, sitk.sitkInt8)


def _some_values(array: np.ndarray) -> set[float]:
    """Return the distinct values, the lowest of them if there are more than labels have."""
    import numpy as np

    return {float(value) for value in np.unique(array)[: _MAX_LABELS + 1]}


def _are_labels(values: set[float]) -> bool:
    return len(values) <= _MAX_LABELS and all(value >= 0 and value.is_integer() for value in values)
