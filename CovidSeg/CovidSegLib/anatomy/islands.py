"""Remove small islands from a mask: specks that are vessels or noise rather than infection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..boxes import bounding_box

#: Relative difference by which an island may fall short of the limit and still count as large as it.
ROUNDING = 1e-9


@dataclass(frozen=True)
class IslandRemoval:
    """A mask without its small islands, and what was removed.

    Attributes:
        mask_kji: (k, j, i) bool, new.
        removed_count: Number of islands removed.
        removed_ml: Their volume together.
        kept_count: Number of islands left.
    """

    mask_kji: np.ndarray
    removed_count: int
    removed_ml: float
    kept_count: int


def remove_islands(mask_kji: np.ndarray, *, voxel_ml: float, min_ml: float) -> IslandRemoval:
    """Return a mask without the islands smaller than `min_ml`; islands of exactly that volume stay.

    Voxels that share a face, an edge or a corner belong to one island.

    Args:
        mask_kji: (k, j, i) bool.
        voxel_ml: Volume of a voxel.
        min_ml: Smallest volume of an island that stays.

    Raises:
        ValueError: `voxel_ml` is not above 0, or `min_ml` is negative.
    """
    from scipy import ndimage

    if voxel_ml <= 0 or min_ml < 0:
        raise ValueError(f"a voxel of {voxel_ml} ml and a limit of {min_ml} ml; expected above 0, and 0 or more")
    result_kji = mask_kji.astype(bool)
    box = bounding_box(result_kji)
    if box is None:
        return IslandRemoval(result_kji, removed_count=0, removed_ml=0.0, kept_count=0)
    islands, count = ndimage.label(result_kji[box], structure=np.ones((3, 3, 3)))
    voxels = np.bincount(islands.ravel(), minlength=count + 1)
    small = voxels * voxel_ml < min_ml * (1.0 - ROUNDING)
    small[0] = False
    result_kji[box][small[islands]] = False
    removed = int(np.count_nonzero(small))
    return IslandRemoval(result_kji, removed, float(voxels[small].sum() * voxel_ml), count - removed)
