"""Reading a chest CT from whatever a user has: `read_ct` in, `CTVolume` or an `InputError` that explains out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError
from .geometry import Geometry
from .readers.archive import extracted
from .readers.checks import ImageData, check_values, spacing_warnings
from .readers.dicom import SeriesInfo, Stack, choose_stack, find_stacks
from .readers.dicom_frames import FrameHeader, why_not_frames
from .readers.dicom_stack import read_stack
from .readers.inputs import (
    SUPPORTED,
    case_name,
    files_under,
    fingerprint_of,
    image_suffix,
    imaging_file_in,
    looks_like_dicom,
    unreadable,
)
from .readers.metaimage import read_metaimage
from .readers.nifti import read_nifti
from .readers.nrrd import read_nrrd
from .texts import Text
from .texts import text as _

__all__ = ["CTVolume", "SeriesInfo", "case_name", "fingerprint_of", "list_series", "read_ct"]


@dataclass(frozen=True)
class CTVolume:
    """A CT: values, grid, where it came from, and what the user should know about it.

    Attributes:
        hu_kji: (k, j, i) int16 (float32 where values are not whole or do not fit): HU, unless the file holds grey or
            offset values, which `segment` maps (`intensity.to_hounsfield`).
        geometry: The grid, as in the file.
        name: Case name: file or folder name without extension, the parent's name for `imaging.*`.
        fingerprint: `sha256:...` of the input's bytes.
        warnings: Sentences for the report.
        series: For DICOM, the number and description of the series taken.
    """

    hu_kji: np.ndarray
    geometry: Geometry
    name: str
    fingerprint: str
    warnings: tuple[str, ...] = ()
    series: str | None = None


def read_ct(path: str | Path, *, series: str | None = None) -> CTVolume:
    """Return the CT at a path; nothing is written but temporary copies (of a zip's files, padded slices).

    Args:
        path: NIfTI, NRRD or MetaImage file; DICOM folder or zip (of several series the axial chest series with most
            slices is taken, and a warning says so); an Enhanced CT file; a folder with one `imaging.*`.
        series: DICOM only: the series to take, by number, UID, or part of its description (see `list_series`).

    Raises:
        InputError: The input cannot be used; the message names file, cause and remedy.
    """
    path = Path(path)
    fingerprint = fingerprint_of(path)
    try:
        with _files_at(path) as files:
            image = _read_files(path, files, series=series)
    except OSError as error:
        raise unreadable(path, error=error) from error
    except MemoryError as error:
        text = _("{path}: too large for this computer's memory. Crop or resample the CT.")
        raise InputError(text.format(path=path)) from error
    check_values(image.values_kji, label=str(path))
    return CTVolume(
        hu_kji=image.values_kji,
        geometry=image.geometry,
        name=case_name(path),
        fingerprint=fingerprint,
        warnings=image.warnings + spacing_warnings(image.geometry),
        series=image.series,
    )


def list_series(path: str | Path) -> list[SeriesInfo]:
    """Return the DICOM image series in a folder or zip, the one `read_ct` takes first; empty if there are none.

    Raises:
        InputError: The path is missing, damaged or unreadable, or a slice of it is.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(_("{path}: no such file or folder. Check the path.").format(path=path))
    try:
        with _files_at(path) as files:
            return [stack.info for stack in find_stacks(files, label=str(path))]
    except OSError as error:
        raise unreadable(path, error=error) from error


@contextmanager
def _files_at(path: Path) -> Iterator[list[Path]]:
    """Give the files that a path stands for: the file itself, or what the folder or the zip holds."""
    if path.is_dir():
        imaging = imaging_file_in(path)
        yield [imaging] if imaging else files_under(path)
    elif image_suffix(path) is None and _is_zip(path):
        with extracted(path) as files:
            yield files
    else:
        yield [path]


def _is_zip(path: Path) -> bool:
    if path.suffix.lower() == ".zip":
        return True
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _read_files(path: Path, files: list[Path], *, series: str | None) -> ImageData:
    single = _single_image(path, files)
    if single is None:
        return _read_dicom(path, files, series=series)
    if series is not None:
        text = _("{path}: a series can be chosen in DICOM only; this is one image. Leave the series out.")
        raise InputError(text.format(path=path))
    label = str(path) if path.name == single.name else f"{path} ({single.name})"
    suffix = image_suffix(single)
    if suffix in (".nii", ".nii.gz"):
        return read_nifti(single, label=label)
    if suffix in (".nrrd", ".nhdr"):
        return read_nrrd(single, label=label)
    return read_metaimage(single, label=label)


def _single_image(path: Path, files: list[Path]) -> Path | None:
    """Return the one non-DICOM image among files, or None if they are DICOM.

    Raises:
        InputError: Neither DICOM nor one image.
    """
    if any(looks_like_dicom(file) for file in files if image_suffix(file) is None):
        return None
    images = [file for file in files if image_suffix(file)]
    images = [file for file in images if file.name.lower().startswith("imaging.")] or images
    if len(images) == 1:
        return images[0]
    if images:
        names = ", ".join(sorted(file.name for file in images)[:5])
        text = _("{path}: {count} images ({names}). Give the one that is the CT.")
        raise InputError(text.format(path=path, count=len(images), names=names))
    if path.is_dir():
        raise InputError(_("{path}: no CT in this folder. Give {formats}.").format(path=path, formats=SUPPORTED))
    inner = sorted(file.name for file in files if file.suffix.lower() == ".zip")
    if inner:
        text = _("{path}: the zip holds another zip ('{name}') and no CT. Unpack it first, and give what is in it.")
        raise InputError(text.format(path=path, name=inner[0]))
    text = _("{path}: not a CT in a known format, or damaged. Give {formats}.")
    raise InputError(text.format(path=path, formats=SUPPORTED))


def _read_dicom(path: Path, files: list[Path], *, series: str | None) -> ImageData:
    label = str(path)
    stacks = find_stacks(files, label=label)
    if files == [path] and not (stacks and isinstance(stacks[0].slices[0], FrameHeader)):
        raise InputError(_single_file_text(stacks, label=label))
    if not stacks:
        text = _("{label}: DICOM files, but no images among them. Give the folder of a CT series.")
        raise InputError(text.format(label=label))
    stack = choose_stack(stacks, series=series, label=label)
    image = read_stack(stack, label=label)
    notes = _choice_notes(stacks, stack, chosen_by_user=series is not None)
    return ImageData(image.values_kji, image.geometry, warnings=(*notes, *image.warnings), series=image.series)


def _single_file_text(stacks: list[Stack], *, label: str) -> Text:
    if stacks and why_not_frames(stacks[0].slices):
        return _("{label}: {reason}.").format(label=label, reason=stacks[0].info.reason)
    text = _("{label}: one DICOM file is one slice, or a format not read here. Give the series' folder.")
    return text.format(label=label)


def _choice_notes(stacks: list[Stack], taken: Stack, *, chosen_by_user: bool) -> list[Text]:
    """Return what to say of the stacks that were not taken: other images of the series, and other series."""
    notes: list[Text] = []
    others = [stack for stack in stacks if stack is not taken]
    left_out = sum(len(stack.slices) for stack in others if stack.info.uid == taken.info.uid)
    if left_out:
        text = _("{count} image(s) of the series have another size or orientation and were left out.")
        notes.append(text.format(count=left_out))
    foreign = {stack.info.uid for stack in others} - {taken.info.uid}
    if foreign and not chosen_by_user:
        text = _(
            "{count} series found; series {series} was taken. Another can be chosen by its number, UID or description."
        )
        notes.append(text.format(count=len(foreign) + 1, series=taken.info.text))
    return notes
