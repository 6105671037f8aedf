"""Take small islands out of a mask: specks that are vessels or noise rather than infection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .boxes import bounding_box

#: Relative difference below which an island counts as large as the limit.
ROUNDING = 1e-9


@dataclass(frozen=True)
class IslandRemoval:
    """A mask without its small islands, and what that took away.

    Attributes:
        mask_kji: (k, j, i) bool, new.
        removed_count: Islands taken out.
        removed_ml: Their volume.
        kept_count: Islands left.
    """

    mask_kji: np.ndarray
    removed_count: int
    removed_ml: float
    kept_count: int


def remove_islands(mask_kji: np.ndarray, *, voxel_ml: float, min_ml: float) -> IslandRemoval:
    """Return a mask without islands smaller than a volume; one as large as the limit stays.

    Voxels that share a face, an edge or a corner belong to one island.

    Args:
        mask_kji: (k, j, i) bool.
        voxel_ml: Volume of a voxel.
        min_ml: Islands below it are removed.

    Raises:
        ValueError: The voxel has no volume, or the limit is negative.
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
