"""Infection along the patient's axis, from apex to base: one point per slice of the CT.

The axis is the grid axis that runs closest to the patient's; distances are measured along it.
Infection counts as in `quantify`: it is part of a lung, the nearer one if it lies outside both,
so that the slices' volumes add up to the case's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..anatomy.nearest_lung import assign_infection_to_lungs
from ..boxes import Box, bounding_box
from ..orient import Orientation
from .segment_masks import SegmentMasks

REGIONS = ("lungs", "left_lung", "right_lung")


@dataclass(frozen=True)
class AxisProfile:
    """Lung and infection slice by slice, apex first; no slice if there is neither.

    Attributes:
        distance_mm: (n,) float64, from the first slice.
        lung_ml: Region -> (n,) float64, infection included.
        infection_ml: Region -> (n,) float64.
        point_ijk: (n, 3) int64, a voxel worth looking at in the slice: of the infection, else of the
            lungs, the one nearest to their middle; the slice's middle if it holds neither.
    """

    distance_mm: np.ndarray
    lung_ml: Mapping[str, np.ndarray]
    infection_ml: Mapping[str, np.ndarray]
    point_ijk: np.ndarray

    def poi_percent(self, region: str) -> np.ndarray:
        """Return the (n,) percentage of infection of a region, NaN in slices without it."""
        lung_ml = self.lung_ml[region]
        poi_percent = np.full(lung_ml.shape, np.nan)
        np.divide(100.0 * self.infection_ml[region], lung_ml, out=poi_percent, where=lung_ml > 0)
        return poi_percent


def axis_profile(masks: SegmentMasks, *, orientation: Orientation | None = None) -> AxisProfile:
    """Return lung and infection per slice, from apex to base.

    Args:
        masks: The three segments, lungs with or without their infection.
        orientation: How the grid lies in the patient; as its geometry says if None.
    """
    geometry = masks.geometry
    orientation = orientation or Orientation.of(geometry)
    box = bounding_box(masks.left_kji | masks.right_kji | masks.infection_kji) or (slice(0, 0),) * 3
    left, right, infection = (mask[box] for mask in (masks.left_kji, masks.right_kji, masks.infection_kji))
    in_left, in_right = assign_infection_to_lungs(infection, left_kji=left, right_kji=right, geometry=geometry)
    left, right = left | in_left, right | in_right

    def per_slice_ml(mask_kji: np.ndarray) -> np.ndarray:
        return np.count_nonzero(_apex_first(mask_kji, orientation), axis=(1, 2)) * geometry.voxel_volume_ml

    lung_ml = dict(zip(REGIONS, map(per_slice_ml, (left | right, left, right)), strict=True))
    infection_ml = dict(zip(REGIONS, map(per_slice_ml, (infection, in_left, in_right)), strict=True))
    distance_mm = np.arange(len(lung_ml["lungs"])) * orientation.spacing_mm(geometry)[0]
    point_ijk = _points(infection, left | right, box=box, orientation=orientation)
    return AxisProfile(distance_mm, lung_ml, infection_ml, point_ijk)


def most_infected_voxel(infection_kji: np.ndarray, *, orientation: Orientation) -> tuple[int, int, int] | None:
    """Return index_ijk of an infected voxel in the slice with most infection, or None without infection.

    It is the voxel nearest to the middle of that slice's infection; of equal slices the first from the apex.

    Args:
        infection_kji: (k, j, i) bool.
        orientation: How the grid lies in the patient.
    """
    box = bounding_box(infection_kji)
    if box is None:
        return None
    slices = _apex_first(infection_kji[box], orientation)
    index = int(np.count_nonzero(slices, axis=(1, 2)).argmax())
    return _index_ijk((index, *_voxel_near_middle(slices[index])), box=box, orientation=orientation)


def _apex_first(array_kji: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Return a view with axes (I, P, L): the patient's head comes first."""
    return orientation.view(array_kji)[::-1]


def _points(infection_kji: np.ndarray, lungs_kji: np.ndarray, *, box: Box, orientation: Orientation) -> np.ndarray:
    """Return `AxisProfile.point_ijk` of masks that were cut to a box."""
    points = []
    slices = zip(_apex_first(infection_kji, orientation), _apex_first(lungs_kji, orientation), strict=True)
    for index, (infection, lungs) in enumerate(slices):
        shown = infection if infection.any() else lungs
        middle = _voxel_near_middle(shown) if shown.any() else (shown.shape[0] // 2, shown.shape[1] // 2)
        points.append(_index_ijk((index, *middle), box=box, orientation=orientation))
    return np.array(points, dtype=np.int64).reshape(-1, 3)


def _voxel_near_middle(mask: np.ndarray) -> tuple[int, int]:
    """Return row and column of the voxel of a 2D mask that is nearest to the mask's centroid."""
    voxels = np.argwhere(mask)
    row, column = voxels[((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)


def _index_ijk(apex_first: tuple[int, int, int], *, box: Box, orientation: Orientation) -> tuple[int, int, int]:
    """Return index_ijk on the grid of a voxel given in the (I, P, L) view of a box."""
    index_kji = [0, 0, 0]
    backwards = (not orientation.flipped[0], *orientation.flipped[1:])
    for value, axis, flipped in zip(apex_first, orientation.order, backwards, strict=True):
        index_kji[axis] = box[axis].stop - 1 - value if flipped else box[axis].start + value
    k, j, i = index_kji
    return (i, j, k)
