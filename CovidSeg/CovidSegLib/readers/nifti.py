"""NIfTI-1 files (.nii, .nii.gz): voxels are decoded here, the grid is taken from ITK so that Slicer has the same.

ITK cannot be used alone: it silently fills the missing part of a truncated file with leftovers of memory, and where the
sform is sheared it silently uses the qform. Both must be refused.

Source: NIfTI-1 header layout, https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..texts import text as _
from .checks import (
    GRID_TOLERANCE,
    NO_ORIENTATION,
    ImageData,
    check_geometry,
    check_size,
    check_straight_axes,
)
from .inputs import stem_of
from .memory import require_memory
from .pixels import DAMAGED, VoxelFormat, is_gzip, open_maybe_gzip, read_voxels, reason_of
from .sitk_quiet import itk_reason, quiet_itk

_HEADER_BYTES = 348
#: numpy's name of each data type that a CT or labelmap may have.
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_NOT_GREY = {**dict.fromkeys((32, 1792, 2048), _("complex")), 128: _("colour (RGB)"), 2304: _("colour (RGBA)")}
_BROKEN = _("{label}: the file is truncated or corrupt ({reason}). Copy or export it again.")
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True)
class NiftiHeader:
    """The header fields that reading needs.

    `sform_ras` is 3x4 in file units, `qform_axes_ras` 3x3 with unit columns; each is None where its code is 0.
    """

    size_ijk: tuple[int, int, int]
    dtype: np.dtype
    pixdim: np.ndarray
    data_offset: int
    slope: float
    intercept: float
    qform_axes_ras: np.ndarray | None
    sform_ras: np.ndarray | None
    mm_per_unit: float


def read_nifti(path: Path, *, label: str) -> ImageData:
    """Return the volume in a NIfTI-1 file.

    Raises:
        InputError: Damaged, truncated, not 3D, not grey, sheared, implausible, or too large for memory.
    """
    # ITK, which reads the grid, tells compressed files by their name.
    if is_gzip(path) and not path.name.lower().endswith(".gz"):
        text = _("{label}: a compressed file without .gz at the end of its name. Rename it to end in .nii.gz.")
        raise InputError(text.format(label=label))
    ending = path.name[len(stem_of(path.name)) :]
    if ending not in (ending.lower(), ending.upper()):
        text = _("{label}: the name's end {ending} mixes capitals and small letters. Rename it to end in {good}.")
        raise InputError(text.format(label=label, ending=ending, good=ending.lower()))
    try:
        with open_maybe_gzip(path) as stream:
            header = parse_header(stream.read(_HEADER_BYTES), label=label)
            voxels = VoxelFormat(header.size_ijk, header.dtype, slope=header.slope, intercept=header.intercept)
            require_memory(header.size_ijk, dtype=voxels.value_dtype, label=label)
            geometry, warnings = _read_geometry(path, header, label=label)
            check_geometry(geometry, label=label)
            stream.seek(header.data_offset)
            values_kji = read_voxels(stream, voxels, label=label)
    except DAMAGED as error:
        raise InputError(_BROKEN.format(label=label, reason=reason_of(error))) from error
    return ImageData(values_kji=values_kji, geometry=geometry, warnings=warnings)


def parse_header(raw: bytes, *, label: str) -> NiftiHeader:
    """Return the fields of a 348-byte NIfTI-1 header.

    Raises:
        InputError: Not a single-file NIfTI-1 header, damaged, or of an image that is not 3D grey.
    """
    order = next((o for o in "<>" if raw[:4] == np.array(_HEADER_BYTES, f"{o}i4").tobytes()), None)
    if order is None or raw[344:348] != b"n+1\0":
        text = _(
            "{label}: not a NIfTI-1 file, or its header is corrupt. Export the CT again as NIfTI-1 (.nii.gz) or NRRD."
        )
        raise InputError(text.format(label=label))

    def field(kind: str, offset: int, count: int) -> np.ndarray:
        return np.frombuffer(raw, dtype=f"{order}{kind}", count=count, offset=offset)

    def floats(offset: int, count: int) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a damaged header may hold signalling NaN; refused below
            return field("f4", offset, count).astype(np.float64)

    dim = field("i2", 40, 8)
    if not 1 <= dim[0] <= 7:
        text = _("{label}: the header states {count} dimensions; the file is corrupt. Export the CT again.")
        raise InputError(text.format(label=label, count=int(dim[0])))
    code = int(field("i2", 70, 1)[0])
    if code not in DTYPES:
        what = _NOT_GREY.get(code) or _("of unknown data type {code}").format(code=code)
        text = _("{label}: the voxels are {what}; a CT is grey, one number per voxel. Give the CT itself.")
        raise InputError(text.format(label=label, what=what))
    offset, slope, intercept = (float(value) for value in floats(108, 3))
    if not _HEADER_BYTES <= offset < 2**31:
        text = _("{label}: the header places the voxels at byte {offset:g}; the file is corrupt. Export it again.")
        raise InputError(text.format(label=label, offset=offset))
    if slope == 0 or not np.isfinite(slope):  # the standard's "no scaling"; some writers leave NaN
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        text = _("{label}: the intercept in the header is not a number. Export the CT again.")
        raise InputError(text.format(label=label))
    qform_code, sform_code = (int(value) for value in field("i2", 252, 2))
    if not np.all(np.isfinite(floats(256, 18 if sform_code > 0 else 6))):
        text = _("{label}: the position in the header is not a number. Export the CT again.")
        raise InputError(text.format(label=label))
    return NiftiHeader(
        size_ijk=check_size(tuple(int(n) for n in dim[1 : 1 + dim[0]]), label=label),
        dtype=np.dtype(f"{order}{DTYPES[code]}"),
        pixdim=floats(80, 3),
        data_offset=int(offset),
        slope=slope,
        intercept=intercept,
        qform_axes_ras=_qform_axes(floats(256, 3), qfac=float(floats(76, 1)[0])) if qform_code > 0 else None,
        sform_ras=floats(280, 12).reshape(3, 4) if sform_code > 0 else None,
        mm_per_unit=_MM_PER_UNIT.get(raw[123] & 7, 1.0),
    )


def _read_geometry(path: Path, header: NiftiHeader, *, label: str) -> tuple[Geometry, tuple[str, ...]]:
    """Return the grid as ITK and Slicer see it, after the checks that ITK leaves out."""
    if not np.all(np.isfinite(header.pixdim)) or np.any(header.pixdim == 0):
        text = _("{label}: the voxel spacing in the header is zero or not a number. Export the CT again.")
        raise InputError(text.format(label=label))
    if header.sform_ras is not None:
        _check_sform(header.sform_ras, header.pixdim, label=label)
    geometry = _itk_geometry(path, header, label=label)
    if header.sform_ras is None and header.qform_axes_ras is None:
        return geometry, (NO_ORIENTATION,)
    if header.sform_ras is None or header.qform_axes_ras is None or _same_axes(header.qform_axes_ras, header.sform_ras):
        return geometry, ()
    # Which of the two ITK uses depends on their codes, and on whether one of them mirrors.
    used = "sform" if _same_axes(geometry.ijk_to_ras[:3, :3], header.sform_ras) else "qform"
    text = _(
        "The file states two different orientations (qform and sform); the {used} is used, as in Slicer. "
        "Check left and right."
    )
    return geometry, (text.format(used=used),)


def _check_sform(sform_ras: np.ndarray, pixdim: np.ndarray, *, label: str) -> None:
    check_straight_axes(sform_ras[:, :3], label=label)
    lengths = np.linalg.norm(sform_ras[:, :3], axis=0)
    wrong = np.abs(lengths / np.abs(pixdim) - 1.0) > GRID_TOLERANCE
    if np.any(wrong):
        axis = int(np.argmax(wrong))
        text = _(
            "{label}: the header contradicts itself: spacing {pixdim:g} by pixdim, {sform:g} by "
            "sform along axis {axis}. Correct the header, or convert the CT from DICOM again."
        )
        values = {"pixdim": abs(pixdim[axis]), "sform": lengths[axis], "axis": "ijk"[axis]}
        raise InputError(text.format(label=label, **values))


def _itk_geometry(path: Path, header: NiftiHeader, *, label: str) -> Geometry:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NiftiImageIO")
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        if header.sform_ras is None or "orthonormal" not in str(error):
            raise InputError(_BROKEN.format(label=label, reason=itk_reason(error))) from error
        return _straightened(header.sform_ras * header.mm_per_unit, size_ijk=header.size_ijk)
    if tuple(reader.GetSize()[:3]) != header.size_ijk:
        text = _("{label}: the header is ambiguous about the image's size. Export the CT again.")
        raise InputError(text.format(label=label))
    return Geometry.from_sitk(reader)


def _qform_axes(quaternion_bcd: np.ndarray, *, qfac: float) -> np.ndarray:
    """Return the axes that a quaternion states, as unit columns in RAS; a negative `qfac` reverses the third."""
    b, c, d = quaternion_bcd
    rest = 1.0 - float(quaternion_bcd @ quaternion_bcd)
    a = np.sqrt(rest) if rest > 0 else 0.0
    a, b, c, d = np.array([a, b, c, d]) / np.linalg.norm([a, b, c, d])  # rounding may make it longer than 1
    axes = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    return axes * [1.0, 1.0, -1.0 if qfac < 0 else 1.0]


def _straightened(sform_ras: np.ndarray, *, size_ijk: tuple[int, int, int]) -> Geometry:
    """Return the grid with the nearest perpendicular axes, for an sform that ITK refuses for a negligible shear."""
    matrix = np.vstack([sform_ras, [0.0, 0.0, 0.0, 1.0]])
    return Geometry.from_ijk_to_ras(matrix, size_ijk=size_ijk).straightened()


def _same_axes(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether the first three columns of two matrices point the same ways, whatever their lengths."""
    one, other = (matrix[:, :3] / np.linalg.norm(matrix[:, :3], axis=0) for matrix in (first, second))
    return bool(np.allclose(one, other, atol=2 * GRID_TOLERANCE))
