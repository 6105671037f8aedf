"""What is kept of a DICOM image's header.

Headers are read with GDCM inside SimpleITK, which Slicer has too, so that pydicom is needed for multi-frame files only
(`dicom_frames`). Patient identity is neither kept nor reported.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import InputError
from ..texts import Text
from ..texts import text as _
from .dicom_elements import lengths_fit, without_padding
from .inputs import DICOM_SUFFIXES, looks_like_dicom

if TYPE_CHECKING:
    import SimpleITK as sitk

_Read = TypeVar("_Read")

#: SOP classes Enhanced CT and Legacy Converted Enhanced CT: one file holds many slices (`dicom_frames`).
MULTI_FRAME_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
CT_IMAGE_STORAGE = ("1.2.840.10008.5.1.4.1.1.2", *MULTI_FRAME_CT)
#: Group and element of all that is kept of a data set: no identity among it, so that none can get into a message.
HEADER_TAGS = MappingProxyType(
    {
        "sop_class": "0008|0016",
        "series_uid": "0020|000e",
        "series_number": "0020|0011",
        "description": "0008|103e",
        "modality": "0008|0060",
        "body_part": "0018|0015",
        "image_type": "0008|0008",
        "rows": "0028|0010",
        "columns": "0028|0011",
        "samples": "0028|0002",
        "frames": "0028|0008",
        "instance": "0020|0013",
        "position": "0020|0032",
        "orientation": "0020|0037",
        "pixel_spacing": "0028|0030",
        "intercept": "0028|1052",
        "contrast": "0018|0010",
        "reconstruction_diameter": "0018|1100",
        "lossy": "0028|2110",
        "photometric": "0028|0004",
    }
)


@dataclass(frozen=True)
class SliceHeader:
    """What is kept of one image file's header; None where the file does not say (or not as numbers).

    `position_lps_mm` is the centre of the first pixel; `orientation_lps` the unit vectors along a row (i) and down
    a column (j); `pixel_spacing_mm` between rows (j), then between columns (i), as in DICOM. `rescaled` if the data set
    states an intercept; `inverted` if low values are shown bright.
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
    rescaled: bool
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
    suspect = path.suffix.lower() in DICOM_SUFFIXES
    if not looks_like_dicom(path):
        if suspect:
            text = _("{label}: {file} is no readable DICOM file. Copy or export the series again.")
            raise InputError(text.format(label=label, file=path.name))
        return None
    try:
        if not lengths_fit(path):
            raise RuntimeError("an element is longer than the file")
        reader = with_gdcm(path, read=_with_information)
    except RuntimeError as error:
        # Every whole file states its class at the start: without one it was cut short or overwritten.
        if sop_class_of(path) in (*CT_IMAGE_STORAGE, None):
            text = _("{label}: slice {file} is truncated or corrupt. Copy or export the series again.")
            raise InputError(text.format(label=label, file=path.name)) from error
        return None  # a report, a directory, a structure set: no image

    def value_of(tag: str) -> str:
        if not reader.HasMetaDataKey(tag):
            return ""
        # SimpleITK hands bytes that are not UTF-8 over as surrogates. Japanese scanners switch between alphabets by
        # escapes, western ones write Latin-1.
        raw = reader.GetMetaData(tag).encode("utf-8", "surrogateescape")
        for encoding in ("iso2022_jp_2", "utf-8"):
            with contextlib.suppress(UnicodeDecodeError):
                return raw.decode(encoding)
        return raw.decode("latin-1")

    return header_from(value_of, path=path)


def with_gdcm(path: Path, *, read: Callable[[sitk.ImageFileReader], _Read]) -> _Read:
    """Return what `read` makes of a reader of the file, or of a copy without the zeros that follow its pixel data.

    Raises:
        RuntimeError: GDCM cannot read the file.
    """
    try:
        return read(_reader_of(path))
    except RuntimeError:
        content = without_padding(path)
        if content is None:
            raise
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "slice.dcm"
            copy.write_bytes(content)
            return read(_reader_of(copy))


def _reader_of(path: Path) -> sitk.ImageFileReader:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    return reader


def _with_information(reader: sitk.ImageFileReader) -> sitk.ImageFileReader:
    reader.ReadImageInformation()
    return reader


def header_from(value_of: Callable[[str], str], *, path: Path) -> SliceHeader:
    """Return a file's header from the values of its data set.

    Args:
        value_of: Returns the text of a tag of `HEADER_TAGS`, several values parted by backslashes; "" if there is none.
        path: The file.
    """

    def text(name: str) -> str:
        # No escape, which could steer the terminal, gets into a message.
        printable = (letter if letter.isprintable() else " " for letter in value_of(HEADER_TAGS[name]))
        return " ".join("".join(printable).split())

    def numbers(name: str, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(part) for part in text(name).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and np.all(np.isfinite(values)) else None

    def integer(name: str) -> int | None:
        found = numbers(name, 1)
        return None if found is None else int(found[0])

    diameter = numbers("reconstruction_diameter", 1)
    return SliceHeader(
        path=path,
        sop_class=text("sop_class"),
        series_uid=text("series_uid"),
        series_number=integer("series_number"),
        description=text("description"),
        modality=text("modality").upper(),
        body_part=text("body_part"),
        image_type=text("image_type").replace("\\", " "),
        rows=integer("rows") or 0,
        columns=integer("columns") or 0,
        samples=integer("samples") or 1,
        frames=integer("frames") or 1,
        instance=integer("instance"),
        position_lps_mm=numbers("position", 3),
        orientation_lps=numbers("orientation", 6),
        pixel_spacing_mm=numbers("pixel_spacing", 2),
        rescaled=text("intercept") != "",
        contrast=text("contrast"),
        reconstruction_diameter_mm=None if diameter is None else diameter[0],
        lossy=text("lossy") == "01",
        inverted=text("photometric").upper() == "MONOCHROME1",
    )


def sop_class_of(path: Path) -> str | None:
    """Return the SOP class from the file meta group, or None: enough to tell a broken slice from a report."""
    with path.open("rb") as stream:
        head = stream.read(1024)
    # (0002,0002) UI, always explicit little endian, 2-byte length
    at = head.find(b"\x02\x00\x02\x00UI")
    if at < 0 or at + 8 > len(head):
        return None
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace") or None
