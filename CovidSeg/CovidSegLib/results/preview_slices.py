"""Which slices a preview shows: four axial ones from apex to base, one coronal, one sagittal per lung."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..boxes import Box, bounding_box, grown
from ..geometry import Geometry
from ..labels import Label
from ..orient import Orientation

#: Shares of the lungs' height from base to apex, shown apex first.
_AXIAL_POSITIONS = (0.82, 0.61, 0.40, 0.19)

#: Coronal and sagittal slices stay in this part of the lungs, where a slice shows most of them.
_MIDDLE = (0.25, 0.75)

MARGIN_MM = 30.0


@dataclass(frozen=True)
class Plane:
    """A slice as it is looked at: rows run down, columns to the right.

    Attributes:
        hu: (rows, columns) part of the CT, a view.
        labels: (rows, columns) part of the labelmap, a view.
        spacing_mm: Distance between rows, and between columns.
        marks: What lies at the left and right border: "R" and "L", or "A" and "P".
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float]
    marks: tuple[str, str]


def preview_planes(
    hu_kji: np.ndarray, *, labelmap_kji: np.ndarray, geometry: Geometry
) -> tuple[list[Plane], list[Plane]]:
    """Return the axial slices, and the others, cut to the lungs and their surroundings.

    Radiological convention for every grid: patient's right on the image's left, anterior up;
    coronal slices are seen from the front, sagittal ones from the patient's left.
    """
    orientation = Orientation.of(geometry)
    hu, labels = orientation.view(hu_kji), orientation.view(labelmap_kji)
    s_mm, p_mm, l_mm = orientation.spacing_mm(geometry)
    size_s, size_p, size_l = labels.shape
    box = bounding_box(labels) or (slice(0, size_s), slice(0, size_p), slice(0, size_l))
    infection = labels[box] == Label.INFECTION
    shown_s, shown_p, shown_l = _with_margin(box, labels.shape, (s_mm, p_mm, l_mm))
    down_s = slice(shown_s.stop - 1, shown_s.start - 1 if shown_s.start else None, -1)  # head first

    def plane(index: tuple[slice | int, ...], spacing_mm: tuple[float, float], marks: tuple[str, str]) -> Plane:
        return Plane(hu[index], labels[index], spacing_mm, marks)

    axial = [
        plane((s, shown_p, shown_l), (p_mm, l_mm), ("R", "L")) for s in _axial_slices(infection.sum((1, 2)), box[0])
    ]
    middle_p = _best_in_middle(infection.sum((0, 2)), box[1])
    others = [plane((down_s, middle_p, shown_l), (s_mm, l_mm), ("R", "L"))]
    others += [
        plane((down_s, shown_p, middle_l), (s_mm, p_mm), ("A", "P"))
        for middle_l in _sagittal_slices(labels, box, infection)
    ]
    return axial, others


def _with_margin(box: Box, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Box:
    """Return the box grown by `MARGIN_MM` in each direction, within the volume."""
    return grown(box, margin_kji=[math.ceil(MARGIN_MM / mm) for mm in spacing_mm], shape_kji=shape)


def _axial_slices(infected: np.ndarray, part: slice) -> list[int]:
    """Return four slices from apex to base; the one nearest to most infection gives way to it."""
    slices = [part.start + round(share * (len(infected) - 1)) for share in _AXIAL_POSITIONS]
    if infected.any():
        most = part.start + int(infected.argmax())
        nearest = min(range(len(slices)), key=lambda n: abs(slices[n] - most))
        slices[nearest] = most
    return slices


def _best_in_middle(infected: np.ndarray, part: slice) -> int:
    """Return the slice with most infection within the middle of `part`, or the middle one."""
    low, high = (round(share * (len(infected) - 1)) for share in _MIDDLE)
    inner = infected[low : high + 1]
    return part.start + (low + int(inner.argmax()) if inner.any() else (len(infected) - 1) // 2)


def _sagittal_slices(labels: np.ndarray, box: Box, infection: np.ndarray) -> Iterator[int]:
    """Yield a slice through the right and one through the left lung; a missing lung gives its half's middle."""
    start, stop = box[2].start, box[2].stop
    middle = (start + stop) // 2
    for label, half in ((Label.RIGHT_LUNG, slice(start, middle)), (Label.LEFT_LUNG, slice(middle, stop))):
        lung = bounding_box(labels[box] == label)
        own = half if lung is None else slice(start + lung[2].start, start + lung[2].stop)
        if own.stop == own.start:  # a box one voxel wide has no second half
            own = box[2]
        yield _best_in_middle(infection.sum((0, 1))[own.start - start : own.stop - start], own)
