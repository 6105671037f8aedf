"""Warnings for an image that does not show the whole lungs: volumes and POI cover only what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..geometry import Geometry
from ..orient import Orientation
from ..texts import text as _

if TYPE_CHECKING:
    from .chest import Chest

#: The lungs continue beyond the first or last slice if their cross-section there exceeds this share of their largest
#: one. In six chests that were scanned whole it is up to 0.03.
CUT_OFF_SHARE = 0.1

#: What `field_of_view_warnings` may say.
CROPPED = _(
    "The lungs reach the border of the image: the field of view is cropped, volumes and POI cover only what is shown."
)
NOT_SCANNED_WHOLE = _(
    "The lungs reach the first or the last slice: they are not scanned whole, volumes and POI cover only what is shown."
)


def field_of_view_warnings(lungs_kji: np.ndarray, *, geometry: Geometry, chest: Chest | None) -> tuple[str, ...]:
    """Return the warnings that apply, a sentence each.

    Args:
        lungs_kji: (k, j, i), not 0 where there is lung, infected or not.
        geometry: The CT's grid.
        chest: The chest in the CT (`chest.chest_in`); if None, only the first and last slice are checked.
    """
    warnings = []
    if chest is not None and (chest.touches_side or chest.touches_padding):
        warnings.append(CROPPED)
    lung_voxels = [np.count_nonzero(plane) for plane in Orientation.of(geometry).view(lungs_kji)]
    if max(lung_voxels[0], lung_voxels[-1]) > CUT_OFF_SHARE * max(lung_voxels):
        warnings.append(NOT_SCANNED_WHOLE)
    return tuple(warnings)
