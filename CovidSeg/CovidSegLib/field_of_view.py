"""Whether the image shows the lungs whole: volumes and POI say nothing of what lies beyond it."""

from __future__ import annotations

import numpy as np

from .chest import Chest, find_chest
from .errors import InputError
from .geometry import Geometry
from .orient import Orientation
from .texts import text as _

#: Lungs whose cross-section in the first or last slice is larger than this share of their largest go on beyond it.
#: On six chests that were scanned whole: up to 0.03.
CUT_OFF_SHARE = 0.1

#: What `field_of_view_warnings` may say.
CROPPED = _(
    "The lungs reach the border of the image: the field of view is cropped, volumes and POI cover only what is shown."
)
NOT_SCANNED_WHOLE = _(
    "The lungs reach the first or the last slice: they are not scanned whole, volumes and POI cover only what is shown."
)


def field_of_view_warnings(lungs_kji: np.ndarray, *, geometry: Geometry, chest: Chest | None) -> tuple[str, ...]:
    """Return what of the lungs the image does not show, a sentence each.

    Args:
        lungs_kji: (k, j, i), not 0 where there is lung, infected or not.
        geometry: The CT's grid.
        chest: The chest in the CT (`chest_in`); without, only the slices are looked at.
    """
    warnings = []
    if chest is not None and (chest.touches_side or chest.touches_padding):
        warnings.append(CROPPED)
    lung_voxels = [np.count_nonzero(plane) for plane in Orientation.of(geometry).view(lungs_kji)]
    if max(lung_voxels[0], lung_voxels[-1]) > CUT_OFF_SHARE * max(lung_voxels):
        warnings.append(NOT_SCANNED_WHOLE)
    return tuple(warnings)


def chest_in(hu_kji: np.ndarray, *, geometry: Geometry) -> Chest | None:
    """Return the chest that a CT (k, j, i) in HU shows; None if its lungs hold no air."""
    orientation = Orientation.of(geometry)
    try:
        return find_chest(orientation.view(hu_kji), spacing_mm=orientation.spacing_mm(geometry))
    except InputError:
        return None
