"""What is kept of a DICOM image's header.

Headers are read with GDCM inside SimpleITK, which Slicer has too, so that pydicom is not needed. Patient identity is
neither kept nor reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .dicom_lengths import lengths_fit
from .errors import InputError
from .inputs import DICOM_SUFFIXES, looks_like_dicom
from .texts import Text
from .texts import text as _

if TYPE_CHECKING:
    import SimpleITK as sitk

#: SOP classes Enhanced CT and Legacy Converted Enhanced CT: one file holds many slices (`dicom_frames`).
MULTI_FRAME_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
CT_IMAGE_STORAGE = ("1.2.840.10008.5.1.4.1.1.2", *MULTI_FRAME_CT)


@dataclass(frozen=True)
class SliceHeader:
    """What is kept of one image file's header; None where the file does not say (or not as numbers).

    `position_lps_mm` is the centre of the first pixel; `orientation_lps` the unit vectors along a row (i) and down
    a column (j); `pixel_spacing_mm` between rows (j), then between columns (i), as in DICOM. `inverted` if low values
    are shown bright.
    """

    path: Path
    sop_class: str
    series_uid: str
    series_number: int | None
    description: str
    modality: str
    body_part: str
    image_type: str
    rows: int
    columns: int
    samples: int
    frames: int
    instance: int | None
    position_lps_mm: tuple[float, ...] | None
    orientation_lps: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    contrast: str
    reconstruction_diameter_mm: float | None
    lossy: bool
    inverted: bool

    @property
    def plane(self) -> Text:
        """`axial`, `coronal`, `sagittal`, `oblique`, or `unknown`: the anatomical plane nearest to the slice."""
        if self.orientation_lps is None:
            return _("unknown")
        normal = np.abs(np.cross(self.orientation_lps[:3], self.orientation_lps[3:]))
        axis = int(np.argmax(normal))
        return (_("sagittal"), _("coronal"), _("axial"))[axis] if normal[axis] > 0.8 else _("oblique")

    @property
    def name(self) -> Text:
        """How messages call the slice: file, instance number, position."""
        number = "?" if self.instance is None else self.instance
        if self.position_lps_mm is None:
            return _("{file} (instance {number})").format(file=self.path.name, number=number)
        text = _("{file} (instance {number}, z = {z:g} mm)")
        return text.format(file=self.path.name, number=number, z=self.position_lps_mm[2])


def read_header(path: Path, *, label: str) -> SliceHeader | None:
    """Return the header of an image; None for a file that is none, or no DICOM at all.

    Args:
        path: The file.
        label: The folder or zip, for messages.

    Raises:
        InputError: The file is called DICOM and is not, or is a CT slice that cannot be read.
    """
    import SimpleITK as sitk

    suspect = path.suffix.lower() in DICOM_SUFFIXES
    if not looks_like_dicom(path):
        if suspect:
            text = _("{label}: {file} is no readable DICOM file. Copy or export the series again.")
            raise InputError(text.format(label=label, file=path.name))
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        if not lengths_fit(path):
            raise RuntimeError("an element is longer than the file")
        reader.ReadImageInformation()
    except RuntimeError as error:
        # Every whole file states its class at the start: without one it was cut short or overwritten.
        if _sop_class(path) in (*CT_IMAGE_STORAGE, None):
            text = _("{label}: slice {file} is truncated or corrupt. Copy or export the series again.")
            raise InputError(text.format(label=label, file=path.name)) from error
        return None  # a report, a directory, a structure set: no image
    return _header_from(reader, path=path)


def _header_from(reader: sitk.ImageFileReader, *, path: Path) -> SliceHeader:
    def text(tag: str) -> str:
        if not reader.HasMetaDataKey(tag):
            return ""
        # SimpleITK hands bytes that are not UTF-8 over as surrogates; western scanners write Latin-1.
        raw = reader.GetMetaData(tag).encode("utf-8", "surrogateescape")
        try:
            decoded = raw.decode("utf-8")
        except UnicodeDecodeError:
            decoded = raw.decode("latin-1")
        return " ".join(decoded.replace("\0", " ").split())

    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(part) for part in text(tag).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and np.all(np.isfinite(values)) else None

    def integer(tag: str) -> int | None:
        found = numbers(tag, 1)
        return None if found is None else int(found[0])

    diameter = numbers("0018|1100", 1)
    return SliceHeader(
        path=path,
        sop_class=text("0008|0016"),
        series_uid=text("0020|000e"),
        series_number=integer("0020|0011"),
        description=text("0008|103e"),
        modality=text("0008|0060").upper(),
        body_part=text("0018|0015"),
        image_type=text("0008|0008").replace("\\", " "),
        rows=integer("0028|0010") or 0,
        columns=integer("0028|0011") or 0,
        samples=integer("0028|0002") or 1,
        frames=integer("0028|0008") or 1,
        instance=integer("0020|0013"),
        position_lps_mm=numbers("0020|0032", 3),
        orientation_lps=numbers("0020|0037", 6),
        pixel_spacing_mm=numbers("0028|0030", 2),
        contrast=text("0018|0010"),
        reconstruction_diameter_mm=None if diameter is None else diameter[0],
        lossy=text("0028|2110") == "01",
        inverted=text("0028|0004").upper() == "MONOCHROME1",
    )


def _sop_class(path: Path) -> str | None:
    """Return the SOP class from the file meta group, or None: enough to tell a broken slice from a report."""
    with path.open("rb") as stream:
        head = stream.read(1024)
    # (0002,0002) UI, always explicit little endian, 2-byte length
    at = head.find(b"\x02\x00\x02\x00UI")
    if at < 0 or at + 8 > len(head):
        return None
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace") or None
