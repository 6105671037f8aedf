"""Read an image of labels, whole or not at all: ITK alone would make up what a truncated file lacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..texts import text as _
from .metaimage import verify_metaimage
from .nifti import DTYPES
from .nrrd import verify_nrrd
from .pixels import DAMAGED, open_maybe_gzip, reason_of
from .sitk_quiet import itk_reason, quiet_itk

if TYPE_CHECKING:
    import SimpleITK as sitk

_NIFTI_HEADER_BYTES = 352
_CHUNK_BYTES = 1 << 22


def read_label_image(path: Path, *, expected: str) -> sitk.Image:
    """Return the file's 3D image, whole; the layers of a segmentation are its components.

    Args:
        path: NIfTI, NRRD or MetaImage.
        expected: A sentence on what the file should be, for messages.

    Raises:
        InputError: The file is missing, damaged, cut short or not 3D, or holds a value that is no number.
    """
    import SimpleITK as sitk

    if not path.is_file():
        raise InputError(_("Segmentation '{file}' does not exist or is no file. Check the path.").format(file=path))
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    if is_nifti:
        _check_nifti_stands_alone(path)
    try:
        if path.name.lower().endswith((".nrrd", ".nhdr")):
            verify_nrrd(path)
        elif path.name.lower().endswith((".mha", ".mhd")):
            verify_metaimage(path)
        with quiet_itk():
            image = sitk.ReadImage(str(path))
        if is_nifti:
            _check_nifti_voxels(path, image, expected=expected)
    except (RuntimeError, *DAMAGED) as error:
        reason = itk_reason(error) if isinstance(error, RuntimeError) else reason_of(error)
        text = _(
            "Segmentation '{file}' cannot be read: it is damaged, cut short, or not an image ({reason}). "
            "Copy or save it again. {expected}"
        )
        raise InputError(text.format(file=path, reason=reason, expected=expected)) from error
    if image.GetDimension() != 3:
        text = _("Segmentation '{file}' has {count} dimensions, not 3. {expected}")
        raise InputError(text.format(file=path, count=image.GetDimension(), expected=expected))
    return image


def _check_nifti_stands_alone(path: Path) -> None:
    """Raise InputError if `a.nii` lies beside `a.nii.gz`: ITK would silently read its voxels instead."""
    unpacked = path.with_suffix("")
    if path.suffix.lower() == ".gz" and unpacked.is_file():
        text = _(
            "Segmentation '{file}': '{other}' lies beside it and would be read in its place. "
            "Move one of the two into another folder, or rename it."
        )
        raise InputError(text.format(file=path, other=unpacked.name))


def _check_nifti_voxels(path: Path, image: sitk.Image, *, expected: str) -> None:
    """Check in the file itself what ITK hides: it makes up missing voxels, and reads NaN as 0.

    Raises:
        EOFError, zlib.error, gzip.BadGzipFile: Voxels are missing or damaged.
        InputError: Some are NaN or infinite.
    """
    not_numbers = 0
    with open_maybe_gzip(path) as stream:
        header = stream.read(_NIFTI_HEADER_BYTES).ljust(_NIFTI_HEADER_BYTES, b"\0")
        order = "<" if header[0] == 348 % 256 else ">"  # the header starts with its own size
        dtype = DTYPES.get(int(np.frombuffer(header, f"{order}i2", 1, 70)[0]))
        offset = float(np.frombuffer(header, f"{order}f4", 1, 108)[0])
        start = int(offset) if _NIFTI_HEADER_BYTES <= offset < 2**31 else _NIFTI_HEADER_BYTES
        # Not ITK's size for a known type: scaled voxels are larger in memory than in the file.
        voxel_bytes = np.dtype(dtype).itemsize if dtype else image.GetSizeOfPixelComponent()
        whole = start + image.GetNumberOfPixels() * voxel_bytes
        stream.seek(start)
        found = stream.tell()
        while chunk := stream.read(min(_CHUNK_BYTES, whole - found)):
            found += len(chunk)
            if dtype in ("f4", "f8"):
                values = np.frombuffer(chunk, f"{order}{dtype}", len(chunk) // voxel_bytes)
                not_numbers += int(np.count_nonzero(~np.isfinite(values)))
        stream.read(_CHUNK_BYTES)  # compressed: reaching the end verifies the checksum
    if found < whole:
        raise EOFError(_("{found} bytes instead of {expected}").format(found=found, expected=whole))
    if not_numbers:
        raise not_finite(path, count=not_numbers, expected=expected)


def not_finite(path: Path, *, count: int, expected: str) -> InputError:
    """Return the error for voxels that are NaN or infinite."""
    text = _(
        "Segmentation '{file}': {count} voxel(s) are NaN or infinite, which is no label. "
        "Replace them by 0 where there is background, and save it again. {expected}"
    )
    return InputError(text.format(file=path, count=count, expected=expected))
