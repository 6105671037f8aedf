"""NRRD files (.nrrd, .nhdr), read with ITK, which notices truncation and checksums here, after header checks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .checks import HuBuilder, ImageData, check_geometry, check_size
from .errors import InputError
from .geometry import Geometry
from .inputs import detached_data_files
from .memory import require_memory
from .sitk_quiet import itk_reason, quiet_itk

if TYPE_CHECKING:
    import SimpleITK as sitk

_MAX_HEADER = 1 << 16


def read_nrrd(path: Path, *, label: str) -> ImageData:
    """Return the volume in an NRRD file.

    Raises:
        InputError: Damaged, truncated, not 3D, not grey, sheared, implausible, or too large for memory.
    """
    import SimpleITK as sitk

    detached_data_files(path)  # refuses missing and outlying data files
    with path.open("rb") as stream:
        header = stream.read(_MAX_HEADER).split(b"\n\n")[0].replace(b"\r", b"")
    if re.search(rb"^space directions:.*none", header, re.MULTILINE):
        raise InputError(
            f"{label}: an axis has no direction in space (colour, vectors, time?); a CT is grey, one number per voxel. "
            "Give the CT itself."
        )
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO")
    try:
        with quiet_itk():
            reader.ReadImageInformation()
            geometry = _checked_geometry(reader, label=label)
            image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{label}: the file is truncated or corrupt ({itk_reason(error)}). Copy or export it again."
        ) from error
    values_kji = sitk.GetArrayViewFromImage(image).reshape(geometry.shape_kji)
    builder = HuBuilder(geometry.shape_kji, label=label)
    for k, values_ji in enumerate(values_kji):
        builder.set_slice(k, values_ji)
    warnings = (
        ()
        if b"\nspace" in header
        else ("The file states no orientation: left and right are a guess. Check the sides.",)
    )
    return ImageData(values_kji=builder.result(), geometry=geometry, warnings=warnings)


def _checked_geometry(reader: sitk.ImageFileReader, *, label: str) -> Geometry:
    import SimpleITK as sitk

    components, kind = reader.GetNumberOfComponents(), sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    if components != 1 or "complex" in kind or "vector" in kind or "label" in kind:
        raise InputError(
            f"{label}: the voxels are {kind} with {components} component(s), as in colour or several-channel images; "
            "a CT is grey, one number per voxel. Give the CT itself."
        )
    size_ijk = check_size(tuple(int(n) for n in reader.GetSize()), label=label)
    n = reader.GetDimension()
    direction = np.asarray(reader.GetDirection()).reshape(n, n)[:3, :3]
    spacing, origin = reader.GetSpacing(), reader.GetOrigin()
    geometry = Geometry(
        size_ijk=size_ijk,
        spacing_ijk_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin_lps_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction_lps=tuple(float(value) for value in direction.ravel()),
    )
    check_geometry(geometry, label=label)
    require_memory(size_ijk, label=label)
    return geometry
