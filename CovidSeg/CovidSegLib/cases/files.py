"""Write the files of a case: segmentation, labelmap, report, table, preview and uncertainty."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..readers.sitk_quiet import itk_reason
from ..report import write_report_csv, write_report_json
from ..results.preview import write_preview_png
from ..segmentation_file import write_labelmap_nifti, write_seg_nrrd
from ..texts import text as _
from .folder import file_named
from .state import (
    LABELMAP_FILE,
    PREVIEW_FILE,
    REPORT_CSV_FILE,
    REPORT_JSON_FILE,
    SEGMENTATION_FILE,
    UNCERTAINTY_FILE,
)

if TYPE_CHECKING:
    import numpy as np

    from ..geometry import Geometry

_FULL_BELOW_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 22
_NIFTI_HEADER_BYTES = 352


class CaseResult(Protocol):
    """What the files of a case are made of: what `segment` returns, or what stands corrected in a scene."""

    @property
    def labelmap(self) -> np.ndarray: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def hu_kji(self) -> np.ndarray: ...

    @property
    def uncertainty(self) -> np.ndarray | None: ...

    def report(self) -> dict[str, Any]: ...


def write_case_files(
    folder: Path, *, result: CaseResult, recorded_options: dict[str, str], preview: bool
) -> dict[str, Any]:
    """Write all files of a case into an existing folder; return the report.

    Args:
        folder: Where to write; the report, which declares the case complete, is written last.
        result: What was found in the CT; uncertainty.nii.gz is written if it has the map.
        recorded_options: Options that the result depends on, for resuming.
        preview: Whether to write preview.png.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    labelmap_kji, geometry = result.labelmap, result.geometry
    report = result.report()
    report["runtime"] = {**report["runtime"], "options": recorded_options}
    write_nifti_checked(folder / LABELMAP_FILE, labelmap_kji, geometry=geometry)
    if result.uncertainty is not None:
        write_nifti_checked(folder / UNCERTAINTY_FILE, result.uncertainty, geometry=geometry)
    with file_named(folder / SEGMENTATION_FILE) as path:
        write_seg_nrrd(path, labelmap_kji=labelmap_kji, geometry=geometry)
    if preview:
        with itk_errors_named(folder / PREVIEW_FILE) as path:
            write_preview_png(path, hu_kji=result.hu_kji, labelmap_kji=labelmap_kji, geometry=geometry)
    with file_named(folder / REPORT_CSV_FILE) as path:
        write_report_csv(path, report)
    with file_named(folder / REPORT_JSON_FILE) as path:
        write_report_json(path, report)
    return report


def write_nifti_checked(path: Path, values_kji: np.ndarray, *, geometry: Geometry) -> None:
    """Write (k, j, i) uint8 values as `.nii.gz`, and make sure that all of them are in the file.

    Raises:
        OSError: The disk is full, or another fault of the disk.
    """
    with itk_errors_named(path):
        write_labelmap_nifti(path, labelmap_kji=values_kji, geometry=geometry)
    check_written_whole(path, voxel_bytes=values_kji.size)


@contextmanager
def itk_errors_named(path: Path) -> Iterator[Path]:
    """Turn ITK's errors on writing a file into what they are: a full disk, or another fault of the disk."""
    try:
        with file_named(path):
            yield path
    except RuntimeError as error:
        full = "No space left" in str(error) or _is_full(path)
        raise OSError(errno.ENOSPC if full else errno.EIO, itk_reason(error), str(path)) from error


def check_written_whole(path: Path, *, voxel_bytes: int) -> None:
    """Make sure that all bytes are in a `.nii.gz`: on a full disk, ITK cuts it short and says nothing.

    Raises:
        OSError: They are not.
    """
    size = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        size = 0
    if size != _NIFTI_HEADER_BYTES + voxel_bytes:
        if _is_full(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        # Such as a limit on the size of files, or of a user's share of the disk.
        raise OSError(errno.EIO, _("the system cut short what was written to"), str(path))


def _is_full(path: Path) -> bool:
    return shutil.disk_usage(path.parent).free < _FULL_BELOW_BYTES
