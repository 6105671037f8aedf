"""Multi-frame DICOM CT, Enhanced and Legacy Converted: a header for every frame, so that frames count as slices do.

These files are read with pydicom, which is imported only when one is met: GDCM knows one position and one rescale per
file, whatever its frames say, and refuses files in which a functional group is empty or an extended offset table leads
to the frames.

Source: DICOM PS3.3 C.7.6.16 (functional groups, those of a frame before those shared by all), C.7.6.16.2.9 (rescale).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..texts import Text
from ..texts import text as _
from .dicom_elements import lengths_fit
from .dicom_header import HEADER_TAGS, MULTI_FRAME_CT, SliceHeader, header_from, sop_class_of
from .inputs import looks_like_dicom

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset

#: What describes frames, beside `HEADER_TAGS`; again no identity among it.
_FRAME_KEYWORDS = (
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContrastBolusAgentSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"),
)


@dataclass(frozen=True)
class FrameHeader(SliceHeader):
    """One frame of a multi-frame file as if it were a slice's file.

    `number` counts from 1 in stored order; HU = stored * `slope` + `intercept` as stated (`why_not_frames` refuses what
    is unusable); `part` (stack, temporal position) tells apart what a file holds of several volumes.
    """

    number: int
    slope: float
    intercept: float
    part: tuple[str, str]

    @property
    def name(self) -> Text:
        """How messages call the frame: file, number, position."""
        if self.position_lps_mm is None:
            return _("{file} (frame {number})").format(file=self.path.name, number=self.number)
        text = _("{file} (frame {number}, z = {z:g} mm)")
        return text.format(file=self.path.name, number=self.number, z=self.position_lps_mm[2])


def multi_frame_header(path: Path) -> SliceHeader | None:
    """Return the header of a multi-frame CT as pydicom reads it.

    None for any other file, for one that is damaged, and without pydicom: `read_header` says what is wrong then.

    Raises:
        OSError: The file cannot be read.
    """
    if not looks_like_dicom(path) or sop_class_of(path) not in MULTI_FRAME_CT:
        return None
    pydicom = _pydicom()
    if pydicom is None or not lengths_fit(path):
        return None
    tags = [int(tag.replace("|", ""), 16) for tag in HEADER_TAGS.values()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            return header_from(lambda tag: "\\".join(_texts(dataset, int(tag.replace("|", ""), 16))), path=path)
    except (OSError, MemoryError):
        raise
    except Exception:  # see `headers_of_frames`
        return None


def headers_of_frames(header: SliceHeader, *, label: str) -> list[SliceHeader]:
    """Return a header per frame of a multi-frame CT, in stored order; any other file's header as it is.

    Without pydicom the file's header is returned as it is, too: `why_not_frames` then says what to install.

    Raises:
        InputError: The headers of the frames are damaged or contradict each other.
    """
    if header.sop_class not in MULTI_FRAME_CT or _pydicom() is None:
        return [header]
    try:
        return [*_frames(header, label=label)]
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # pydicom meets damage with whatever its parts raise, and has no class of its own
        text = _("{label}: the frames' headers in {file} are damaged. Copy or export the series again.")
        raise InputError(text.format(label=label, file=header.path.name)) from error


def why_not_frames(slices: Iterable[SliceHeader]) -> str:
    """Return why multi-frame files among slices cannot be read, or an empty text."""
    parts: dict[Path, list[tuple[str, str]]] = {}
    for header in slices:
        if isinstance(header, FrameHeader):
            if not (math.isfinite(header.slope) and header.slope and math.isfinite(header.intercept)):
                text = _("frame {number} of {file} has no usable rescale slope or intercept, export the series again")
                return text.format(number=header.number, file=header.path.name)
            parts.setdefault(header.path, []).append(header.part)
        elif header.sop_class in MULTI_FRAME_CT:
            return _(
                "multi-frame (enhanced) DICOM needs pydicom 3: pip install 'covidseg[dicom]', "
                "or export it as single slices or NIfTI"
            )
        elif header.frames > 1:
            return _("multi-frame DICOM that is no Enhanced CT, export it as single slices or NIfTI")
    for found in parts.values():
        count = len(set(found))
        # A mark of its own on every frame, as the time in a sweep, makes no volumes: then the positions decide.
        if 1 < count < len(found):
            text = _(
                "multi-frame DICOM with {count} stacks or phases in one file, "
                "export one of them as single slices or NIfTI"
            )
            return text.format(count=count)
    return ""


def frame_values(frames: Iterable[tuple[int, FrameHeader]], *, label: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index given with a frame, and its (j, i) values after its own rescale; one frame is held at a time.

    Raises:
        InputError: A frame is missing or cannot be decoded, which may need another package.
    """
    files: dict[Path, dict[int, tuple[int, FrameHeader]]] = {}
    for index, frame in frames:
        files.setdefault(frame.path, {})[frame.number] = (index, frame)
    for path, wanted in files.items():
        # Compressed frames are found one after the other only, so the file's order it is.
        for number, stored_ji in enumerate(_decoded(path, label=label), start=1):
            if number not in wanted:
                continue
            index, frame = wanted.pop(number)
            if stored_ji.shape != (frame.rows, frame.columns):
                text = _("{label}: {slice} is not one grey image. Copy or export the series again.")
                raise InputError(text.format(label=label, slice=frame.name))
            plain = (frame.slope, frame.intercept) == (1.0, 0.0)
            yield index, stored_ji if plain else stored_ji * frame.slope + frame.intercept
        if wanted:
            _index, frame = next(iter(wanted.values()))
            text = _("{label}: {slice} has no pixels. Copy or export the series again.")
            raise InputError(text.format(label=label, slice=frame.name))


def _pydicom() -> Any:
    """Return pydicom with what is needed here of its version 3, or None if it is not installed."""
    try:
        import_module("pydicom.pixels")
        return import_module("pydicom")
    except ImportError:
        return None


def _frames(header: SliceHeader, *, label: str) -> Iterator[FrameHeader]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deviations from the standard, with the value at fault
        dataset = _pydicom().dcmread(header.path, stop_before_pixels=True, specific_tags=list(_FRAME_KEYWORDS))
        shared_items = dataset.get("SharedFunctionalGroupsSequence") or [dataset]
        items = dataset.get("PerFrameFunctionalGroupsSequence") or []
        if len(items) != header.frames:
            text = _("{label}: {file} states {count} frames and describes {found}. Copy or export the series again.")
            values = {"file": header.path.name, "count": header.frames, "found": len(items)}
            raise InputError(text.format(label=label, **values))
        for number, item in enumerate(items, start=1):
            yield _frame(header, (item, shared_items[0], dataset), number=number)


def _frame(header: SliceHeader, places: tuple[Dataset, ...], *, number: int) -> FrameHeader:
    """Return a frame's header from the places that may describe it, the frame's own first, the data set last."""
    content, anatomy = _group(places, "FrameContentSequence"), _group(places, "FrameAnatomySequence")
    region, agent = _group((anatomy,), "AnatomicRegionSequence"), _group(places[-1:], "ContrastBolusAgentSequence")
    kind = " ".join(_texts(_group(places, "CTImageFrameTypeSequence"), "FrameType"))
    diameter = header.reconstruction_diameter_mm
    for group in ("CTReconstructionSequence", "UnassignedSharedConvertedAttributesSequence"):
        found = _numbers(_group(places, group), "ReconstructionDiameter", 1)
        diameter = diameter if found is None else found[0]
    slope, intercept = _rescale(_group(places, "PixelValueTransformationSequence"))
    own: dict[str, Any] = {
        "position_lps_mm": _numbers(_group(places, "PlanePositionSequence"), "ImagePositionPatient", 3),
        "orientation_lps": _numbers(_group(places, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        "pixel_spacing_mm": _numbers(_group(places, "PixelMeasuresSequence"), "PixelSpacing", 2),
        "image_type": kind or header.image_type,
        "body_part": header.body_part or str(region.get("CodeMeaning") or ""),
        "contrast": header.contrast or str(agent.get("CodeMeaning") or ""),
        "reconstruction_diameter_mm": diameter,
    }
    part = (str(content.get("StackID") or ""), str(content.get("TemporalPositionIndex") or ""))
    return FrameHeader(**{**vars(header), **own}, number=number, slope=slope, intercept=intercept, part=part)


def _group(places: tuple[Dataset, ...], keyword: str) -> Dataset:
    """Return the item of a functional group from the first place that has it.

    If none has, return the last place, the data set: some writers put the group's values there, as in single slices.
    """
    for place in places:
        items = place.get(keyword)
        if items:
            return items[0]
    return places[-1]


def _texts(group: Dataset, keyword: str | int) -> list[str]:
    """Return the values of an element as texts, however many they are; pydicom hands a single one over by itself."""
    if keyword not in group or group[keyword].is_empty:
        return []
    value = group[keyword].value
    return [str(part) for part in (value if group[keyword].VM > 1 else [value])]


def _numbers(group: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    values = tuple(float(text) for text in _texts(group, keyword))
    return values if len(values) == count and all(math.isfinite(value) for value in values) else None


def _rescale(group: Dataset) -> tuple[float, float]:
    """Return slope and intercept, 1 and 0 where none are given, as for single slices."""
    slope, intercept = group.get("RescaleSlope"), group.get("RescaleIntercept")
    return (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))


def _decoded(path: Path, *, label: str) -> Iterator[np.ndarray]:
    """Yield the stored (j, i) values of a file's frames."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            syntax = import_module("pydicom.filereader").read_file_meta_info(path).TransferSyntaxUID
            # What is deflated as a whole cannot be read frame by frame.
            source = _pydicom().dcmread(path) if syntax.is_deflated else path
            yield from import_module("pydicom.pixels").iter_pixels(source, raw=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # see `headers_of_frames`
        text = _(
            "{label}: the frames in {file} cannot be decoded ({reason}). "
            "Copy it again, or export it uncompressed or as single slices."
        )
        lines = str(error).split("\n", 1)  # below the first stand the packages that pydicom looked for
        raise InputError(text.format(label=label, file=path.name, reason=lines[0].rstrip(": ")[:200])) from error
