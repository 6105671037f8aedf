"""Finding DICOM CT series among files: stacks, and which one to take.

Headers are in `dicom_header`, those of multi-frame files in `dicom_frames`, pixels and geometry in `dicom_stack`.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from ..texts import Text, joined
from ..texts import text as _
from .checks import MIN_SLICES
from .dicom_frames import headers_of_frames, multi_frame_header, why_not_frames
from .dicom_header import SliceHeader, read_header
from .sitk_quiet import quiet_itk

#: The largest CT matrix in use is 2048 x 2048; decoding allocates what the header claims.
_MAX_PIXELS = 4096 * 4096
#: Where anonymising gave every slice a series of its own, all of them would be a message of many pages.
_MAX_LISTED = 20
_LOCALIZER = re.compile(r"locali[sz]er|scout|topogra|surview|scanogram", re.IGNORECASE)
_PROJECTION = re.compile(r"\b(mip|minip|min ip|projection|rendered|3d)\b", re.IGNORECASE)
_CHEST = re.compile(r"chest|thora|lung|pulmo|poumon|t[oó]rax", re.IGNORECASE)


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

    @property
    def text(self) -> Text:
        """How messages call the series: number, description, slices, and why it is unusable."""
        text = _("{number}: {description} ({count} {plane} slices)")
        if self.reason:
            text = _("{number}: {description} ({count} {plane} slices, {reason})")
        return text.format(
            number="-" if self.number is None else self.number,
            description=self.description or _("no description"),
            count=self.slices,
            plane=self.plane,
            reason=self.reason,
        )

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Stack:
    """Images of one series that share size and plane; `copies` counts those left out as exact copies of others."""

    slices: tuple[SliceHeader, ...]
    copies: int = 0

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
    """Return the image stacks among files, best first; exact copies and files that are no DICOM images are ignored.

    Raises:
        InputError: A CT slice cannot be read.
        OSError: A file cannot be read.
    """
    groups: dict[tuple[str, int, int, int, str], list[SliceHeader]] = {}
    with quiet_itk():
        for path in files:
            found = multi_frame_header(path) or read_header(path, label=label)
            for header in () if found is None else headers_of_frames(found, label=label):
                key = (header.series_uid, header.rows, header.columns, header.samples, header.plane)
                groups.setdefault(key, []).append(header)
    stacks = [_stack_without_copies(slices) for slices in groups.values()]
    return sorted(stacks, key=lambda stack: (not stack.info.usable, stack.rank))


def _stack_without_copies(slices: list[SliceHeader]) -> Stack:
    """Return a stack of the slices without those whose files equal another's byte by byte ("004 (1).dcm")."""
    alike: dict[SliceHeader, list[SliceHeader]] = {}
    unique: list[SliceHeader] = []
    for header in slices:
        # Files are compared only if their headers are the same, and give a position.
        others = alike.setdefault(replace(header, path=Path()), []) if header.position_lps_mm else []
        if not any(filecmp.cmp(header.path, other.path, shallow=False) for other in others):
            others.append(header)
            unique.append(header)
    return Stack(tuple(unique), copies=len(slices) - len(unique))


def choose_stack(stacks: list[Stack], *, series: str | None, label: str) -> Stack:
    """Return the stack to read: the user's choice, else the axial chest series with most slices.

    Args:
        stacks: From `find_stacks`, not empty.
        series: Series number, UID, or part of the description; None to choose.
        label: The folder or zip, for messages.

    Raises:
        InputError: No usable series, or the choice fits none or several.
    """
    listing = _listing(stacks)
    if series is None:
        if stacks[0].info.usable:
            return stacks[0]
        text = _(
            "{label}: no axial chest CT series found. Found: {series}. "
            "Give the folder of an axial CT with at least {least} slices."
        )
        raise InputError(text.format(label=label, series=listing, least=MIN_SLICES))
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
            text = _("{label}: series {wanted!r} fits several. Choose by UID or number among: {series}.")
            raise InputError(text.format(label=label, wanted=wanted, series=listing))
        if found:
            best = max(found, key=lambda stack: len(stack.slices))
            _require_ct(best, label=label)
            return best
    text = _("{label}: no series {wanted!r}. Choose among: {series}.")
    raise InputError(text.format(label=label, wanted=wanted, series=listing))


def _listing(stacks: list[Stack]) -> Text:
    shown = joined("; ", (stack.info.text for stack in stacks[:_MAX_LISTED]))
    if len(stacks) <= _MAX_LISTED:
        return shown
    return _("{series}; and {count} more").format(series=shown, count=len(stacks) - _MAX_LISTED)


def _require_ct(stack: Stack, *, label: str) -> None:
    reason = _why_unreadable(stack)
    if reason:
        text = _("{label}: series {series} cannot be used: {reason}. Choose an axial CT series.")
        raise InputError(text.format(label=label, series=stack.info.text, reason=reason))


def _why_unusable(stack: Stack) -> str:
    first = stack.slices[0]
    reason = _why_unreadable(stack)
    if reason:
        return reason
    if "LOCALIZER" in first.image_type.upper() or _LOCALIZER.search(first.description):
        return _("localizer")
    return "" if first.plane == "axial" else _("not axial")


def _why_unreadable(stack: Stack) -> str:
    """Return why a stack cannot be read even if the user asks for it, or an empty text."""
    first = stack.slices[0]
    if first.modality != "CT":
        return _("{modality}, not CT").format(modality=first.modality or _("unknown modality"))
    if first.samples != 1:
        return _("colour images")
    if any(header.inverted for header in stack.slices):
        # ITK turns the numbers round, too, which are HU as they are: PS3.3 C.7.6.3.1.2 is about their display alone.
        return _("inverted grey values (MONOCHROME1), export it as MONOCHROME2 or convert it to NIfTI with dcm2niix")
    not_frames = why_not_frames(stack.slices)
    if not_frames:
        return not_frames
    if not 0 < first.rows * first.columns <= _MAX_PIXELS:
        return _("images of {columns} x {rows} pixels").format(columns=first.columns, rows=first.rows)
    if first.plane == "unknown":
        return _("no slice position or orientation in the header")
    return _("fewer than {least} slices").format(least=MIN_SLICES) if len(stack.slices) < MIN_SLICES else ""
