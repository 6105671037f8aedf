"""Finding DICOM CT series among files: headers, stacks, which one to take. Pixels and geometry are in `dicom_stack`.

Headers are read with GDCM inside SimpleITK, which Slicer has too, so that pydicom is not needed. Patient identity is
neither kept nor reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checks import MIN_SLICES
from .dicom_lengths import lengths_fit
from .errors import InputError
from .inputs import looks_like_dicom
from .sitk_quiet import quiet_itk

CT_IMAGE_STORAGE = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
#: The largest CT matrix in use is 2048 x 2048; decoding allocates what the header claims.
_MAX_PIXELS = 4096 * 4096
_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_LOCALIZER = re.compile(r"locali[sz]er|scout|topogra|surview|scanogram", re.IGNORECASE)
_PROJECTION = re.compile(r"\b(mip|minip|min ip|projection|rendered|3d)\b", re.IGNORECASE)
_CHEST = re.compile(r"chest|thora|lung|pulmo|poumon|t[oó]rax", re.IGNORECASE)


@dataclass(frozen=True)
class SliceHeader:
    """What is kept of one image file's header; None where the file does not say (or not as numbers).

    `position_lps_mm` is the centre of the first pixel; `orientation_lps` the unit vectors along a row (i) and down
    a column (j); `pixel_spacing_mm` between rows (j), then between columns (i), as in DICOM.
    """

    path: Path
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

    @property
    def plane(self) -> str:
        """`axial`, `coronal`, `sagittal`, `oblique`, or `unknown`: the anatomical plane nearest to the slice."""
        if self.orientation_lps is None:
            return "unknown"
        normal = np.abs(np.cross(self.orientation_lps[:3], self.orientation_lps[3:]))
        axis = int(np.argmax(normal))
        return ("sagittal", "coronal", "axial")[axis] if normal[axis] > 0.8 else "oblique"

    @property
    def name(self) -> str:
        """How messages call the slice: file, instance number, position."""
        where = "" if self.position_lps_mm is None else f", z = {self.position_lps_mm[2]:g} mm"
        return f"{self.path.name} (instance {'?' if self.instance is None else self.instance}{where})"


@dataclass(frozen=True)
class SeriesInfo:
    """One series a user can choose, without patient identity; `reason` says why an unusable one is not taken."""

    uid: str
    number: int | None
    description: str
    modality: str
    plane: str
    slices: int
    usable: bool
    reason: str = ""

    def __str__(self) -> str:
        number = "-" if self.number is None else str(self.number)
        rest = f", {self.reason}" if self.reason else ""
        return f"{number}: {self.description or 'no description'} ({self.slices} {self.plane} slices{rest})"


@dataclass(frozen=True)
class Stack:
    """Images of one series that share size and plane."""

    slices: tuple[SliceHeader, ...]

    @property
    def info(self) -> SeriesInfo:
        """The stack as a user sees it."""
        first = self.slices[0]
        reason = _why_unusable(self)
        return SeriesInfo(
            uid=first.series_uid,
            number=first.series_number,
            description=first.description,
            modality=first.modality,
            plane=first.plane,
            slices=len(self.slices),
            usable=not reason,
            reason=reason,
        )

    @property
    def rank(self) -> tuple[int, int, int, int, str]:
        """Smaller is taken first: chest, no projection, many slices; then number and UID, to be reproducible."""
        first = self.slices[0]
        text = f"{first.body_part} {first.description}"
        region = 0 if _CHEST.search(text) else 1 if not first.body_part else 2
        projection = int(bool(_PROJECTION.search(f"{first.description} {first.image_type}".replace("_", " "))))
        number = first.series_number if first.series_number is not None else 1 << 30
        return (region, projection, -len(self.slices), number, first.series_uid)


def find_stacks(files: Iterable[Path], *, label: str) -> list[Stack]:
    """Return the image stacks among files, best first; files that are no DICOM images are ignored.

    Raises:
        InputError: A CT slice cannot be read.
    """
    groups: dict[tuple[str, int, int, int, str], list[SliceHeader]] = {}
    with quiet_itk():
        for path in files:
            header = _read_header(path, label=label)
            if header is not None:
                key = (header.series_uid, header.rows, header.columns, header.samples, header.plane)
                groups.setdefault(key, []).append(header)
    stacks = [Stack(tuple(slices)) for slices in groups.values()]
    return sorted(stacks, key=lambda stack: (not stack.info.usable, stack.rank))


def choose_stack(stacks: list[Stack], *, series: str | None, label: str) -> Stack:
    """Return the stack to read: the user's choice, else the axial chest series with most slices.

    Args:
        stacks: From `find_stacks`, not empty.
        series: Series number, UID, or part of the description; None to choose.
        label: The folder or zip, for messages.

    Raises:
        InputError: No usable series, or the choice fits none or several.
    """
    listing = "; ".join(str(stack.info) for stack in stacks)
    if series is None:
        if stacks[0].info.usable:
            return stacks[0]
        raise InputError(
            f"{label}: no axial chest CT series found. Found: {listing}. "
            f"Give the folder of an axial CT with at least {MIN_SLICES} slices."
        )
    wanted = series.strip()
    tests = (
        lambda info: info.uid == wanted,
        lambda info: str(info.number) == wanted,
        lambda info: info.description.lower() == wanted.lower(),
        lambda info: wanted != "" and wanted.lower() in info.description.lower(),
    )
    for test in tests:
        found = [stack for stack in stacks if test(stack.info)]
        if len({stack.info.uid for stack in found}) > 1:
            raise InputError(f"{label}: series {wanted!r} fits several. Choose by UID or number among: {listing}.")
        if found:
            best = max(found, key=lambda stack: len(stack.slices))
            _require_ct(best, label=label)
            return best
    raise InputError(f"{label}: no series {wanted!r}. Choose among: {listing}.")


def _require_ct(stack: Stack, *, label: str) -> None:
    reason = _why_unreadable(stack)
    if reason:
        raise InputError(f"{label}: series {stack.info} cannot be used: {reason}. Choose an axial CT series.")


def _why_unusable(stack: Stack) -> str:
    first = stack.slices[0]
    reason = _why_unreadable(stack)
    if reason:
        return reason
    if "LOCALIZER" in first.image_type.upper() or _LOCALIZER.search(first.description):
        return "localizer"
    return "" if first.plane == "axial" else "not axial"


def _why_unreadable(stack: Stack) -> str:
    """Return why a stack cannot be read even if the user asks for it, or an empty text."""
    first = stack.slices[0]
    if first.modality != "CT":
        return f"{first.modality or 'unknown modality'}, not CT"
    if first.samples != 1:
        return "colour images"
    if first.frames > 1:
        return "multi-frame (enhanced) DICOM, export it as single slices or NIfTI"
    if not 0 < first.rows * first.columns <= _MAX_PIXELS:
        return f"images of {first.columns} x {first.rows} pixels"
    if first.plane == "unknown":
        return "no slice position or orientation in the header"
    return f"fewer than {MIN_SLICES} slices" if len(stack.slices) < MIN_SLICES else ""


def _read_header(path: Path, *, label: str) -> SliceHeader | None:
    import SimpleITK as sitk

    suspect = path.suffix.lower() in _DICOM_SUFFIXES
    if not looks_like_dicom(path):
        if suspect:
            raise InputError(f"{label}: {path.name} is no readable DICOM file. Copy or export the series again.")
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
            raise InputError(
                f"{label}: slice {path.name} is truncated or corrupt. Copy or export the series again."
            ) from error
        return None  # a report, a directory, a structure set: no image
    return _header_from(reader, path=path)


def _header_from(reader: object, *, path: Path) -> SliceHeader:
    def text(tag: str) -> str:
        if not reader.HasMetaDataKey(tag):  # type: ignore[attr-defined]
            return ""
        # SimpleITK hands bytes that are not UTF-8 over as surrogates; western scanners write Latin-1.
        raw = reader.GetMetaData(tag).encode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
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
