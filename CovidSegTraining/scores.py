"""Scores of a segmentation against a reference: Dice, sensitivity, specificity, surface Dice, left and right.

Every score can be restricted to the voxels that count; voxels whose truth is unknown must not. 0/0 gives NaN.
Source: METHOD section 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from CovidSegLib.boxes import bounding_box, grown
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.orient import Orientation

#: Distances within which surfaces agree (`surface_dice`).
LUNG_TOLERANCE_MM, INFECTION_TOLERANCE_MM = 1.0, 3.0


@dataclass(frozen=True)
class Counts:
    """Numbers of voxels by truth and segmentation, over the voxels that count."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @classmethod
    def of(cls, truth: np.ndarray, found: np.ndarray, *, counted: np.ndarray | None = None) -> Counts:
        """Return the counts of two boolean arrays of equal shape; `counted` None counts all voxels."""
        if truth.shape != found.shape:
            raise ValueError(f"truth has shape {truth.shape}, the segmentation {found.shape}")
        if counted is not None:
            truth, found = truth[counted], found[counted]
        both = int(np.count_nonzero(truth & found))
        false_positive, false_negative = int(np.count_nonzero(found)) - both, int(np.count_nonzero(truth)) - both
        return cls(both, false_positive, false_negative, truth.size - both - false_positive - false_negative)

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> float:
        """TP / (TP + FN)."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP)."""
        return _ratio(self.true_negative, self.true_negative + self.false_positive)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN)."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def accuracy(self) -> float:
        """(TP + TN) / all."""
        right = self.true_positive + self.true_negative
        return _ratio(right, right + self.false_positive + self.false_negative)


#: Regions that are scored: the exclusive classes, and as "lungs" both lungs with their infection.
REGIONS: dict[str, tuple[Label, ...]] = {
    "lungs": (Label.LEFT_LUNG, Label.RIGHT_LUNG, Label.INFECTION),
    "left": (Label.LEFT_LUNG,),
    "right": (Label.RIGHT_LUNG,),
    "infection": (Label.INFECTION,),
}


def region_mask(labelmap_kji: np.ndarray, region: str) -> np.ndarray:
    """Return the boolean mask of one of `REGIONS` in a labelmap."""
    return np.isin(labelmap_kji, [int(label) for label in REGIONS[region]])


def surface_dice(
    truth_kji: np.ndarray,
    found_kji: np.ndarray,
    *,
    spacing_kji_mm: tuple[float, float, float],
    tolerance_mm: float,
    counted_kji: np.ndarray | None = None,
) -> float:
    """Return the normalised surface Dice: the share of both surfaces that lies within a tolerance of the other.

    A surface is the set of a mask's voxels that have a face to the outside, and its size their number, not an area.
    Where a mask ends only because the image or the counted region ends, it has no surface.

    Args:
        truth_kji: (k, j, i) bool.
        found_kji: (k, j, i) bool.
        spacing_kji_mm: Voxel spacing.
        tolerance_mm: Largest distance that still counts as agreement.
        counted_kji: (k, j, i) bool, voxels whose truth is known; None: all.
    """
    from scipy import ndimage

    counted = np.ones(truth_kji.shape, dtype=bool) if counted_kji is None else counted_kji
    box = bounding_box((truth_kji | found_kji) & counted)
    if box is None:
        return float("nan")
    box = grown(box, margin_kji=(2, 2, 2), shape_kji=counted.shape)
    truth, found, counted = truth_kji[box] & counted[box], found_kji[box] & counted[box], counted[box]
    surfaces = [mask & ~ndimage.binary_erosion(mask | ~counted, border_value=1) for mask in (truth, found)]
    sizes = [int(np.count_nonzero(surface)) for surface in surfaces]
    if sum(sizes) == 0:
        return float("nan")
    if min(sizes) == 0:
        return 0.0
    near = 0
    for own, other in (surfaces, surfaces[::-1]):
        distance_mm = ndimage.distance_transform_edt(~other, sampling=spacing_kji_mm)
        near += int(np.count_nonzero(distance_mm[own] <= tolerance_mm))
    return near / sum(sizes)


def poi_percent(labelmap_kji: np.ndarray, *, counted: np.ndarray | None = None) -> float:
    """Return the percentage of the lungs that is infected, over the voxels that count; NaN without lung."""
    labels = labelmap_kji if counted is None else labelmap_kji[counted]
    return 100.0 * _ratio(int(np.count_nonzero(labels == Label.INFECTION)), int(np.count_nonzero(labels)))


@dataclass(frozen=True)
class Sides:
    """Whether left and right are told apart.

    Attributes:
        swapped: Whether the left lung's centre lies to the right of the right lung's.
        stray_share: Share of a lung's voxels that lie beyond the centre of the other lung; of the worse lung.
    """

    swapped: bool
    stray_share: float

    #: A larger share than this cannot be explained by anatomy: left and right are mixed up.
    STRAY_FROM = 0.01

    @property
    def mistaken(self) -> bool:
        """Whether left and right are mixed up, wholly or in part."""
        return self.swapped or self.stray_share > self.STRAY_FROM


def check_sides(labelmap_kji: np.ndarray, *, geometry: Geometry) -> Sides:
    """Return whether the left lung lies on the patient's left, by the left-right axis that the header gives.

    If a lung is missing, nothing is mistaken.
    """
    labels = Orientation.of(geometry).view(labelmap_kji)  # the last axis runs to the left
    positions = {side: np.nonzero(labels == side)[2] for side in (Label.LEFT_LUNG, Label.RIGHT_LUNG)}
    left, right = positions[Label.LEFT_LUNG], positions[Label.RIGHT_LUNG]
    if not left.size or not right.size:
        return Sides(swapped=False, stray_share=0.0)
    stray = max(float((left < right.mean()).mean()), float((right > left.mean()).mean()))
    return Sides(swapped=bool(left.mean() < right.mean()), stray_share=stray)


def other_side_share(labels_kji: np.ndarray, other_kji: np.ndarray, *, counted: np.ndarray) -> float:
    """Return how much of what both labelmaps call healthy lung is left lung in one of them and right lung in the other.

    It is a share of the counted voxels that are healthy lung in both; NaN if there are none.
    """
    lungs = (Label.LEFT_LUNG, Label.RIGHT_LUNG)
    both = counted & np.isin(labels_kji, lungs) & np.isin(other_kji, lungs)
    return _ratio(int(np.count_nonzero(both & (labels_kji != other_kji))), int(np.count_nonzero(both)))


def mean(values: list[float]) -> float:
    """Return the mean of the values that are defined, NaN if none is."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
