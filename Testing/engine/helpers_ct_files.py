"""Tiny CT files for the reading tests, made on the spot: NIfTI, NRRD, MetaImage, DICOM series and zips of them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from CovidSegLib.geometry import Geometry

OBLIQUE = tuple(
    (
        np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1.0]])
        @ np.array([[1.0, 0, 0], [0, np.cos(-0.2), -np.sin(-0.2)], [0, np.sin(-0.2), np.cos(-0.2)]])
    ).ravel()
)


def tiny_hu(*, shape_kji: tuple[int, int, int] = (10, 12, 14), seed: int = 0) -> np.ndarray:
    """Return (k, j, i) int16 noise in the range of a CT, every slice different."""
    return np.random.default_rng(seed).integers(-1000, 600, shape_kji).astype(np.int16)


def tiny_geometry(
    *,
    size_ijk: tuple[int, int, int] = (14, 12, 10),
    spacing_ijk_mm: tuple[float, float, float] = (0.75, 0.5, 2.0),
    direction_lps: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
) -> Geometry:
    """Return a grid away from the origin."""
    return Geometry(
        size_ijk=size_ijk,
        spacing_ijk_mm=spacing_ijk_mm,
        origin_lps_mm=(-30.0, 12.5, -120.0),
        direction_lps=direction_lps,
    )


def write_image(
    path: Path, values_kji: np.ndarray, *, geometry: Geometry | None = None, compress: bool = False
) -> Path:
    """Write an array with SimpleITK; returns the path."""
    k, j, i = values_kji.shape[:3]
    grid = geometry or tiny_geometry(size_ijk=(i, j, k))
    sitk.WriteImage(grid.to_sitk(values_kji), str(path), compress)
    return path


def write_series(
    folder: Path,
    hu_kji: np.ndarray,
    *,
    spacing_ijk_mm: tuple[float, float, float] = (0.75, 0.5, 2.0),
    row_lps: tuple[float, float, float] = (1.0, 0.0, 0.0),
    column_lps: tuple[float, float, float] = (0.0, 1.0, 0.0),
    origin_lps_mm: tuple[float, float, float] = (-30.0, 12.5, -120.0),
    step_lps_mm: tuple[float, float, float] | None = None,
    slopes: Iterable[float] | None = None,
    intercepts: Iterable[float] | None = None,
    number: int = 3,
    uid: str | None = None,
    prefix: str = "IM",
    **tags: Any,
) -> list[Path]:
    """Write one DICOM CT series, a file per slice in scrambled name order; returns the files in slice order.

    `tags` are DICOM keywords set on every slice; None deletes one. `step_lps_mm` replaces the step along the normal.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    n = len(hu_kji)
    normal = np.cross(row_lps, column_lps)
    step = np.asarray(step_lps_mm) if step_lps_mm is not None else normal * spacing_ijk_mm[2]
    slope_of = list(slopes) if slopes is not None else [1.0] * n
    intercept_of = list(intercepts) if intercepts is not None else [-1024.0] * n
    series_uid = uid or generate_uid()
    files = []
    for k in range(n):
        ds = _base_dataset(pydicom, uid=series_uid, number=number)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [float(v) for v in np.asarray(origin_lps_mm) + k * step]
        ds.ImageOrientationPatient = [float(v) for v in (*row_lps, *column_lps)]
        ds.PixelSpacing = [spacing_ijk_mm[1], spacing_ijk_mm[0]]
        ds.Rows, ds.Columns = hu_kji.shape[1:3]
        ds.RescaleSlope, ds.RescaleIntercept = slope_of[k], intercept_of[k]
        stored = np.rint((hu_kji[k].astype(np.float64) - intercept_of[k]) / slope_of[k])
        ds.PixelData = stored.astype(np.int16).tobytes()
        _set_tags(ds, tags)
        path = folder / f"{prefix}{(k * 7919) % 1009:04d}.dcm"
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        files.append(path)
    return files


def _base_dataset(pydicom: Any, *, uid: str, number: int) -> Any:
    from pydicom.uid import CTImageStorage

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPClassUID = CTImageStorage
    ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4", uid
    ds.FrameOfReferenceUID = "1.2.3.5"
    ds.SeriesNumber = number
    ds.SeriesDescription = "Chest 2.0 soft"
    ds.BodyPartExamined = "CHEST"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    return ds


def edit_slice(path: Path, **tags: Any) -> None:
    """Change DICOM keywords of one file in place; None deletes one."""
    import pydicom

    ds = pydicom.dcmread(path)
    _set_tags(ds, tags)
    ds.save_as(path)


def _set_tags(ds: Any, tags: dict[str, Any]) -> None:
    for keyword, value in tags.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)


def zip_files(path: Path, files: dict[str, Path | bytes]) -> Path:
    """Zip files (or bytes) under given names; returns the path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else content.read_bytes())
    return path


def zip_series(path: Path, files: list[Path]) -> Path:
    """Zip a DICOM series; returns the path."""
    return zip_files(path, {f"study/{file.name}": file for file in files})
