"""Boxes of voxels: the smallest around a mask, one with room around it, and pairs of neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[slice, slice, slice]


def bounding_box(array_kji: np.ndarray) -> Box | None:
    """Return the smallest box that holds every nonzero voxel, or None if there is none."""
    used_k = np.flatnonzero([plane.any() for plane in array_kji])
    if used_k.size == 0:
        return None
    slices_k = slice(int(used_k[0]), int(used_k[-1]) + 1)
    shadow_ji = np.logical_or.reduce(array_kji[slices_k], axis=0)
    return (slices_k, _extent(shadow_ji.any(axis=1)), _extent(shadow_ji.any(axis=0)))


def grown(box: Box, *, margin_kji: Sequence[int], shape_kji: Sequence[int]) -> Box:
    """Return a box with so many voxels more on either side of each axis, as far as the array goes."""
    k, j, i = (
        slice(max(0, part.start - int(margin)), min(size, part.stop + int(margin)))
        for part, margin, size in zip(box, margin_kji, shape_kji, strict=True)
    )
    return (k, j, i)


def neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the indices of two views of a (k, j, i) array that pair each voxel with the next one along an axis."""
    one, other = [slice(None)] * 3, [slice(None)] * 3
    one[axis], other[axis] = slice(None, -1), slice(1, None)
    return tuple(one), tuple(other)


def _extent(used: np.ndarray) -> slice:
    """Return the range from the first to the last True."""
    index = np.flatnonzero(used)
    return slice(int(index[0]), int(index[-1]) + 1)
