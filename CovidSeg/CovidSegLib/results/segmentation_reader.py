"""Read a segmentation: an exclusive labelmap, or Slicer's .seg.nrrd however Slicer arranged it.

Slicer may crop the grid to the segments, spread the segments over any layers, and give them
any label values; people rename segments. So segments are found by ID, else by terminology,
never by their display name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..labels import SEGMENTS, Label
from ..readers.label_image import not_finite, read_label_image
from ..texts import text as _
from .segment_masks import SegmentMasks
from .terminology import TERMINOLOGY_TAG, segment_id_of, terms_of

if TYPE_CHECKING:
    import SimpleITK as sitk

_EXPECTED = _(
    "Expected a labelmap (0 background, 1 left lung, 2 right lung, 3 infection) or a .seg.nrrd with the "
    "segments left_lung, right_lung and infection."
)


def read_segmentation(path: str | Path) -> SegmentMasks:
    """Return the three masks of a segmentation file, on the grid of the file.

    A ``.seg.nrrd`` saved by Slicer may cover only a part of the CT's grid: use
    `SegmentMasks.placed_on` with the CT's geometry.

    Args:
        path: Exclusive labelmap (NIfTI, NRRD, MHA), or ``.seg.nrrd``.

    Raises:
        InputError: The file is missing, damaged, no segmentation, or lacks a segment.
    """
    path = Path(path)
    image = read_label_image(path, expected=_EXPECTED)
    if image.HasMetaDataKey("Segment0_ID"):
        return _masks_of_segments(path, image)
    return _masks_of_labels(path, image)


def _masks_of_labels(path: Path, image: sitk.Image) -> SegmentMasks:
    """Return the masks of a labelmap with the values of `Label`."""
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != 1:
        text = _("Segmentation '{file}' has {count} values per voxel and no segments. {expected}")
        raise InputError(text.format(file=path, count=image.GetNumberOfComponentsPerPixel(), expected=_EXPECTED))
    labels_kji = sitk.GetArrayViewFromImage(image)
    foreign = _foreign_values(labels_kji)
    if not np.isfinite(foreign).all():
        count = int(np.count_nonzero(~np.isfinite(labels_kji)))
        raise not_finite(path, count=count, expected=_EXPECTED)
    if foreign:
        shown = ", ".join(f"{value:g}" for value in foreign[:5])
        text = _(
            "Segmentation '{file}' has label values other than 0, 1, 2, 3 (among them {values}), so it may be a CT "
            "or another kind of segmentation. {expected}"
        )
        raise InputError(text.format(file=path, values=shown, expected=_EXPECTED))
    left, right, infection = (labels_kji == segment.label for segment in SEGMENTS)
    return SegmentMasks(left, right, infection, Geometry.from_sitk(image))


def _foreign_values(labels_kji: np.ndarray) -> list[float]:
    """Return values of the first slice that holds any which are no label, ascending."""
    allowed = [int(label) for label in Label]
    for plane in labels_kji:
        if plane.dtype.kind in "ui" and plane.min() >= allowed[0] and plane.max() <= allowed[-1]:
            continue
        foreign = np.setdiff1d(plane, allowed)
        if foreign.size:
            return [float(value) for value in foreign]
    return []


@dataclass(frozen=True)
class _Segment:
    """What a file's header says of one segment."""

    segment_id: str
    name: str
    layer: int
    label_value: int
    terminology: str

    def __str__(self) -> str:
        return f"'{self.name}' (ID {self.segment_id})"


def _masks_of_segments(path: Path, image: sitk.Image) -> SegmentMasks:
    """Return the masks of a Slicer segmentation."""
    import SimpleITK as sitk

    segments = _segments(path, image)
    layers = sitk.GetArrayViewFromImage(image)
    layers = layers if layers.ndim == 4 else layers[..., np.newaxis]
    masks = []
    for definition in SEGMENTS:
        segment = _find(path, segments, definition.segment_id)
        if not 0 <= segment.layer < layers.shape[3]:
            text = _(
                "Segmentation '{file}': segment {segment} is said to be in layer {layer}, but the file has "
                "{count}. The file is damaged; save it again from Slicer."
            )
            values = {"segment": str(segment), "layer": segment.layer, "count": layers.shape[3]}
            raise InputError(text.format(file=path, **values))
        masks.append(layers[..., segment.layer] == segment.label_value)
    left, right, infection = masks
    return SegmentMasks(left, right, infection, Geometry.from_sitk(image))


def _segments(path: Path, image: sitk.Image) -> list[_Segment]:
    """Return the segments that the header lists."""
    header = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
    segments: list[_Segment] = []
    while (segment_id := header.get(f"Segment{len(segments)}_ID")) is not None:
        index = len(segments)
        tags = dict(tag.split(":", 1) for tag in header.get(f"Segment{index}_Tags", "").split("|") if ":" in tag)
        try:
            # Where the header does not say, Slicer takes one layer per segment, each of value 1.
            layer = int(header.get(f"Segment{index}_Layer", index))
            label_value = int(header.get(f"Segment{index}_LabelValue", 1))
        except ValueError as error:
            text = _(
                "Segmentation '{file}': layer or label value of segment {index} is no number. "
                "The file is damaged; save it again from Slicer."
            )
            raise InputError(text.format(file=path, index=index)) from error
        name = header.get(f"Segment{index}_Name", segment_id)
        segments.append(_Segment(segment_id, name, layer, label_value, tags.get(TERMINOLOGY_TAG, "")))
    return segments


def _find(path: Path, segments: list[_Segment], segment_id: str) -> _Segment:
    """Return the segment with this ID, else the one whose terminology says it is the same."""
    found = [segment for segment in segments if segment.segment_id == segment_id] or [
        segment for segment in segments if segment_id_of(segment.terminology) == segment_id
    ]
    if not found:
        present = ", ".join(str(segment) for segment in segments)
        text = _(
            "Segmentation '{file}' has no segment '{segment}', nor one with its terminology. It has: {present}. "
            "In Slicer, double-click the segment's colour and choose the terminology {terms}; add an empty segment if "
            "there is nothing to show."
        )
        raise InputError(text.format(file=path, segment=segment_id, present=present, terms=terms_of(segment_id)))
    if len(found) > 1:
        text = _(
            "Segmentation '{file}' has several segments for '{segment}': {found}. "
            "Remove all but one, or change the terminology of the others."
        )
        raise InputError(text.format(file=path, segment=segment_id, found=", ".join(map(str, found))))
    return found[0]
