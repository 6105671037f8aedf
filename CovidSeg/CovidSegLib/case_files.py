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
from typing import TYPE_CHECKING, Any

from .case_state import (
    LABELMAP_FILE,
    PREVIEW_FILE,
    REPORT_CSV_FILE,
    REPORT_JSON_FILE,
    SEGMENTATION_FILE,
    UNCERTAINTY_FILE,
)
from .preview import write_preview_png
from .report import write_report_csv, write_report_json
from .segmentation_file import write_labelmap_nifti, write_seg_nrrd
from .sitk_quiet import itk_reason

if TYPE_CHECKING:
    import numpy as np

    from .geometry import Geometry
    from .pipeline import SegmentationResult

_FULL_BELOW_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 22
_NIFTI_HEADER_BYTES = 352


def write_case_files(
    folder: Path,
    *,
    result: SegmentationResult,
    recorded_options: dict[str, str],
    preview: bool,
    uncertainty_kji: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write all files of a case into an existing folder; return the report.

    Args:
        folder: Where to write; the report, which declares the case complete, is written last.
        result: What was found in the CT.
        recorded_options: Options that the result depends on, for resuming.
        preview: Whether to write preview.png.
        uncertainty_kji: (k, j, i) uint8 in per cent, of `segment`; written as uncertainty.nii.gz if given.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    labelmap_kji, geometry = result.labelmap, result.geometry
    report = result.report()
    report["runtime"] = {**report["runtime"], "options": recorded_options}
    _write_nifti(folder / LABELMAP_FILE, labelmap_kji, geometry=geometry)
    if uncertainty_kji is not None:
        _write_nifti(folder / UNCERTAINTY_FILE, uncertainty_kji, geometry=geometry)
    write_seg_nrrd(folder / SEGMENTATION_FILE, labelmap_kji=labelmap_kji, geometry=geometry)
    if preview:
        with _itk_errors_named(folder):
            write_preview_png(folder / PREVIEW_FILE, hu_kji=result.hu_kji, labelmap_kji=labelmap_kji, geometry=geometry)
    write_report_csv(folder / REPORT_CSV_FILE, report)
    write_report_json(folder / REPORT_JSON_FILE, report)
    return report


def _write_nifti(path: Path, values_kji: np.ndarray, *, geometry: Geometry) -> None:
    with _itk_errors_named(path.parent):
        write_labelmap_nifti(path, labelmap_kji=values_kji, geometry=geometry)
    _check_written_whole(path, voxels=values_kji.size)


@contextmanager
def _itk_errors_named(folder: Path) -> Iterator[None]:
    """Turn ITK's errors on writing into what they are: a full disk, or another fault of the disk."""
    try:
        yield
    except RuntimeError as error:
        full = "No space left" in str(error) or shutil.disk_usage(folder).free < _FULL_BELOW_BYTES
        raise OSError(errno.ENOSPC if full else errno.EIO, itk_reason(error)) from error


def _check_written_whole(path: Path, *, voxels: int) -> None:
    """Make sure that all bytes are in the file: on a full disk, ITK cuts a NIfTI short and says nothing.

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
    if size != _NIFTI_HEADER_BYTES + voxels:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
