"""MetaImage files (.mha, .mhd), read here because MetaIO accepts damaged compressed data without a word.

Source: MetaIO file format, https://itk.org/Wiki/ITK/MetaIO/Documentation; grids agree with ITK's (test).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..texts import text as _
from .checks import NO_ORIENTATION, NO_SPACING, ImageData, check_geometry, check_size
from .inputs import MAX_HEADER_BYTES, detached_data_files
from .memory import require_memory
from .pixels import DAMAGED, InflatingStream, VoxelFormat, read_voxels, reason_of, verify_packed

_SPACING = ("ElementSpacing", "ElementSize")
_AXES = ("TransformMatrix", "Rotation", "Orientation")
_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: Path, *, label: str) -> ImageData:
    """Return the volume in a MetaImage file.

    Raises:
        InputError: Damaged, truncated, not 3D, not grey, sheared, implausible, or too large for memory.
    """
    fields, data_offset = _read_header(path, label=label)
    try:
        size_ijk = check_size(tuple(int(n) for n in fields["DimSize"].split()), label=label)
        dtype = _dtype(fields, label=label)
        geometry = _geometry(fields, size_ijk=size_ijk)
        header_size = int(fields.get("HeaderSize", "0"))
    except (KeyError, ValueError) as error:
        text = _("{label}: the header is incomplete or corrupt ({reason}). Export the CT again.")
        raise InputError(text.format(label=label, reason=reason_of(error))) from error
    check_geometry(geometry, label=label)
    require_memory(size_ijk, dtype=dtype, label=label)
    data_path, data_offset = _locate_data(path, fields, offset=data_offset, header_size=header_size, label=label)
    packed = _is_true(fields, "CompressedData")
    if header_size == -1 and not packed:  # the standard's "whatever is before the voxels"
        data_offset = data_path.stat().st_size - int(np.prod(size_ijk)) * dtype.itemsize
    try:
        with data_path.open("rb") as stream:
            stream.seek(max(data_offset, 0))
            source: io.BufferedIOBase | io.RawIOBase = InflatingStream(stream) if packed else stream
            values_kji = read_voxels(source, VoxelFormat(size_ijk, dtype), label=label)
    except DAMAGED as error:
        text = _("{label}: the file is truncated or corrupt ({reason}). Copy or export it again.")
        raise InputError(text.format(label=label, reason=reason_of(error))) from error
    stated = ((_AXES, NO_ORIENTATION), (_SPACING, NO_SPACING))
    warnings = tuple(warning for keys, warning in stated if not any(key in fields for key in keys))
    return ImageData(values_kji=values_kji, geometry=geometry, warnings=warnings)


def verify_metaimage(path: Path) -> None:
    """Make sure that compressed voxels of a MetaImage file are whole; others carry no checksum.

    Raises:
        EOFError, zlib.error: They are not.
        InputError: The header is corrupt, or names no data file beside it.
    """
    fields, start = _read_header(path, label=str(path))
    if _is_true(fields, "CompressedData"):
        data_path, start = _locate_data(path, fields, offset=start, header_size=0, label=str(path))
        verify_packed(data_path, start=start)


def _read_header(path: Path, *, label: str) -> tuple[dict[str, str], int]:
    """Return the header's fields and the byte after its last line, which names the data."""
    with path.open("rb") as stream:
        raw = stream.read(MAX_HEADER_BYTES)
    fields: dict[str, str] = {}
    start = 0
    while (end := raw.find(b"\n", start)) >= 0 or start < len(raw):
        end = len(raw) if end < 0 else end
        key, equals, value = raw[start:end].decode("latin-1").partition("=")
        start = end + 1
        if not equals:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return fields, start
    text = _("{label}: not a MetaImage file, or its header is corrupt. Export the CT again as .nrrd or .nii.gz.")
    raise InputError(text.format(label=label))


def _dtype(fields: dict[str, str], *, label: str) -> np.dtype:
    channels, kind = fields.get("ElementNumberOfChannels", "1"), fields["ElementType"]
    if channels != "1" or kind.endswith("_ARRAY"):
        text = _("{label}: colour or several channels ({channels}); a CT is grey, one number per voxel.")
        raise InputError(text.format(label=label, channels=channels))
    if kind not in _DTYPES:
        raise ValueError(f"ElementType {kind}")
    if not _is_true(fields, "BinaryData", default="True"):
        text = _("{label}: voxels stored as text are not read. Save the CT again as .nrrd or .nii.gz.")
        raise InputError(text.format(label=label))
    big = _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB")
    return np.dtype((">" if big else "<") + _DTYPES[kind])


def _geometry(fields: dict[str, str], *, size_ijk: tuple[int, int, int]) -> Geometry:
    n = int(fields["NDims"])
    if n != len(fields["DimSize"].split()):
        raise ValueError(_("NDims and DimSize disagree"))
    spacing = _numbers(fields, _SPACING, default=[1.0] * n)
    origin = _numbers(fields, ("Offset", "Origin", "Position"), default=[0.0] * n)
    axes = _numbers(fields, _AXES, default=list(np.eye(n).ravel()))
    rows = np.array(axes).reshape(n, n)[:3, :3]  # row m is the direction of axis m
    return Geometry(
        size_ijk=size_ijk,
        spacing_ijk_mm=(spacing[0], spacing[1], spacing[2]),
        origin_lps_mm=(origin[0], origin[1], origin[2]),
        direction_lps=tuple(float(value) for value in rows.T.ravel()),
    )


def _numbers(fields: dict[str, str], keys: tuple[str, ...], *, default: list[float]) -> list[float]:
    for key in keys:
        if key in fields:
            values = [float(part) for part in fields[key].split()]
            if len(values) != len(default):
                raise ValueError(_("{key} has {count} numbers").format(key=key, count=len(values)))
            return values
    return default


def _locate_data(path: Path, fields: dict[str, str], *, offset: int, header_size: int, label: str) -> tuple[Path, int]:
    if fields["ElementDataFile"].upper() == "LOCAL":
        return path, offset
    files = detached_data_files(path)
    if len(files) != 1:
        text = _("{label}: voxels spread over {count} files are not read. Save the CT as .nrrd or .nii.gz.")
        raise InputError(text.format(label=label, count=len(files)))
    return files[0], max(header_size, 0)


def _is_true(fields: dict[str, str], key: str, *, default: str = "False") -> bool:
    """Tell whether a field says yes, as MetaIO has it: True, T or 1."""
    return fields.get(key, default)[:1] in ("T", "t", "1")
