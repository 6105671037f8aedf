"""The three segments as masks on one grid, and their placing on the CT's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..labels import Label
from ..texts import text as _

#: Distance within which voxel centres count as coincident; the rounding of float32 headers stays below it.
ALIGNMENT_TOLERANCE_VOXELS = 0.05


@dataclass(frozen=True)
class SegmentMasks:
    """Left lung, right lung and infection; the lungs with or without their infection.

    Attributes:
        left_kji: (k, j, i) bool.
        right_kji: (k, j, i) bool.
        infection_kji: (k, j, i) bool.
        geometry: Grid of the masks.
    """

    left_kji: np.ndarray
    right_kji: np.ndarray
    infection_kji: np.ndarray
    geometry: Geometry

    def to_labelmap(self) -> np.ndarray:
        """Return the exclusive (k, j, i) uint8 labelmap: infection wins, then the left lung."""
        labelmap_kji = np.zeros(self.geometry.shape_kji, dtype=np.uint8)
        labelmap_kji[self.right_kji] = Label.RIGHT_LUNG
        labelmap_kji[self.left_kji] = Label.LEFT_LUNG
        labelmap_kji[self.infection_kji] = Label.INFECTION
        return labelmap_kji

    def placed_on(self, geometry: Geometry) -> SegmentMasks:
        """Return the masks on another grid that shares its voxels with this one.

        Slicer may save a segmentation on a part of the CT's grid, or on a larger one; no voxel is interpolated. A NIfTI
        of a CT whose axes are sheared a little has them straightened (see `write_labelmap_nifti`), but its voxels are
        still those of the CT.

        Raises:
            InputError: The voxels of the two grids do not coincide, or a segment extends beyond the other grid.
        """
        same = (geometry, geometry.straightened())
        if any(self.geometry.is_close_to(grid, tolerance_voxels=ALIGNMENT_TOLERANCE_VOXELS) for grid in same):
            return SegmentMasks(self.left_kji, self.right_kji, self.infection_kji, geometry)
        offset_kji = _offset_kji(self.geometry, geometry)
        left, right, infection = (
            _placed(mask, offset_kji, geometry) for mask in (self.left_kji, self.right_kji, self.infection_kji)
        )
        return SegmentMasks(left, right, infection, geometry)


def overlap(
    inner_kji: Sequence[int], *, offset_kji: Sequence[int], shape_kji: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where an array and a larger or smaller grid overlap: in the array, and on the grid; both may be empty.

    Args:
        inner_kji: Shape of the array.
        offset_kji: Where its voxel (0, 0, 0) lies on the grid; may be negative.
        shape_kji: Shape of the grid.
    """
    source, target = [], []
    for count, offset, room in zip(inner_kji, map(int, offset_kji), shape_kji, strict=True):
        start, stop = max(offset, 0), min(offset + count, room)
        target.append(slice(start, max(stop, start)))
        source.append(slice(start - offset, max(stop, start) - offset))
    return tuple(source), tuple(target)


def _offset_kji(inner: Geometry, outer: Geometry) -> tuple[int, int, int]:
    """Return where voxel (0, 0, 0) of `inner` lies on `outer`, or raise InputError."""
    inner_to_outer = np.linalg.inv(outer.ijk_to_lps) @ inner.ijk_to_lps
    offset_ijk = np.round(inner_to_outer[:3, 3])
    size = inner.size_ijk
    corners = np.array([(i, j, k, 1) for i in (0, size[0]) for j in (0, size[1]) for k in (0, size[2])], dtype=float).T
    error_voxels = (inner_to_outer @ corners)[:3] - (corners[:3] + offset_ijk[:, None])
    if np.abs(error_voxels).max() > ALIGNMENT_TOLERANCE_VOXELS:
        text = _(
            "The segmentation does not lie on the CT's voxels: it has size {size}, spacing {spacing} mm, "
            "the CT {ct_size}, {ct_spacing} mm, or position or direction differ. "
            "Give the CT that was segmented, or resample the segmentation to this CT."
        )
        raise InputError(
            text.format(
                size=_times(inner.size_ijk),
                spacing=_times(inner.spacing_ijk_mm),
                ct_size=_times(outer.size_ijk),
                ct_spacing=_times(outer.spacing_ijk_mm),
            )
        )
    i, j, k = (int(n) for n in offset_ijk)
    return (k, j, i)


def _times(values: tuple[float, ...]) -> str:
    """Return numbers for a message."""
    return " x ".join(f"{value:.6g}" for value in values)


def _placed(mask_kji: np.ndarray, offset_kji: tuple[int, int, int], geometry: Geometry) -> np.ndarray:
    """Return `mask_kji` on the grid, its first voxel at the offset, or raise InputError."""
    placed_kji = np.zeros(geometry.shape_kji, dtype=bool)
    source, target = overlap(mask_kji.shape, offset_kji=offset_kji, shape_kji=geometry.shape_kji)
    inside = mask_kji[source]
    if np.count_nonzero(inside) != np.count_nonzero(mask_kji):
        text = _(
            "The segmentation extends beyond the CT. Give the CT that was segmented, or erase what lies outside of it."
        )
        raise InputError(text)
    placed_kji[target] = inside
    return placed_kji
