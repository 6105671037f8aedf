"""NRRD files (.nrrd, .nhdr), read with ITK after checks of the header and of the compressed data's checksum.

ITK notices here if data is missing, but not every damage: about one flipped bit in ten of compressed voxels
gives other values and no error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..geometry import Geometry
from ..texts import text as _
from .checks import NO_ORIENTATION, NO_SPACING, ImageData, check_geometry, check_size
from .inputs import MAX_HEADER_BYTES, detached_data_files
from .memory import require_memory
from .pixels import DAMAGED, HuBuilder, reason_of, verify_packed
from .sitk_quiet import itk_reason, quiet_itk

if TYPE_CHECKING:
    import SimpleITK as sitk

_LINES = re.MULTILINE | re.IGNORECASE
#: What Slicer says of a segmentation as a whole, and of each segment.
_SEGMENTATION = re.compile(rb"^Segment(ation|[0-9]+)_\w+:=", re.MULTILINE)
#: Spacing of every axis: NaN says that it is not known.
_SPACING = re.compile(rb"^(space directions|spacings):(?!.*\bnan\b)", _LINES)
#: Spaces that say where the patient's left is; those of a scanner or of mere handedness do not.
_PATIENT_SPACE = re.compile(rb"^space: *([LR][AP]S|(left|right)-(anterior|posterior)-superior)\b", _LINES)


def read_nrrd(path: Path, *, label: str) -> ImageData:
    """Return the volume in an NRRD file.

    Raises:
        InputError: Damaged, truncated, a segmentation, not 3D, not grey, sheared, implausible, or too large for memory.
    """
    import SimpleITK as sitk

    detached_data_files(path)  # refuses missing and outlying data files
    header, _start = _split_header(path)
    if _SEGMENTATION.search(header):
        text = _("{label}: this is a segmentation, not a CT. Give the CT it belongs to.")
        raise InputError(text.format(label=label))
    if re.search(rb"^space directions:.*none", header, _LINES):
        text = _(
            "{label}: an axis has no direction in space (colour, vectors, time?); a CT is grey, one number per voxel. "
            "Give the CT itself."
        )
        raise InputError(text.format(label=label))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO")
    try:
        with quiet_itk():
            reader.ReadImageInformation()
            geometry = _checked_geometry(reader, label=label)
            verify_nrrd(path)
            image = reader.Execute()
    except (RuntimeError, *DAMAGED) as error:
        reason = itk_reason(error) if isinstance(error, RuntimeError) else reason_of(error)
        text = _("{label}: the file is truncated or corrupt ({reason}). Copy or export it again.")
        raise InputError(text.format(label=label, reason=reason)) from error
    values_kji = sitk.GetArrayViewFromImage(image).reshape(geometry.shape_kji)
    builder = HuBuilder(geometry.shape_kji, label=label)
    for k, values_ji in enumerate(values_kji):
        builder.set_slice(k, values_ji)
    stated = ((_PATIENT_SPACE, NO_ORIENTATION), (_SPACING, NO_SPACING))
    warnings = tuple(warning for field, warning in stated if not field.search(header))
    return ImageData(values_kji=builder.result(), geometry=geometry, warnings=warnings)


def verify_nrrd(path: Path) -> None:
    """Make sure that gzip-compressed voxels of an NRRD file are whole; other encodings carry no checksum.

    Raises:
        EOFError, zlib.error: They are not.
        InputError: A data file that the header names is not there, or lies outside the header's folder.
    """
    header, start = _split_header(path)
    # Lines or bytes to leave out before the data are rare, and left to ITK.
    if not re.search(rb"^encoding: *gz(ip)?$", header, _LINES) or re.search(rb"^(line|byte) ?skip:", header, _LINES):
        return
    detached = detached_data_files(path)
    for data_path in detached or [path]:
        verify_packed(data_path, start=0 if detached else start)


def _split_header(path: Path) -> tuple[bytes, int]:
    """Return the header with plain line ends, and the byte after the empty line that ends it."""
    with path.open("rb") as stream:
        raw = stream.read(MAX_HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", raw)
    header = raw if end is None else raw[: end.start()]
    return header.replace(b"\r\n", b"\n"), len(raw) if end is None else end.end()


def _checked_geometry(reader: sitk.ImageFileReader, *, label: str) -> Geometry:
    import SimpleITK as sitk

    components = reader.GetNumberOfComponents()
    if components != 1:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
        text = _(
            "{label}: the voxels are {kind} with {count} component(s), as in colour or several-channel images; "
            "a CT is grey, one number per voxel. Give the CT itself."
        )
        raise InputError(text.format(label=label, kind=kind, count=components))
    size_ijk = check_size(tuple(int(n) for n in reader.GetSize()), label=label)
    geometry = Geometry.from_sitk(reader)
    check_geometry(geometry, label=label)
    one_voxel = sitk.Image([1, 1], reader.GetPixelID())
    require_memory(size_ijk, dtype=sitk.GetArrayViewFromImage(one_voxel).dtype, label=label)
    return geometry
