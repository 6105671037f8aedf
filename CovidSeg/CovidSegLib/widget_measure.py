"""What the section Results shows of the segments as they are now; arrays in, numbers out, on the worker thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .axis_profile import AxisProfile, axis_profile
from .errors import Cancelled
from .field_of_view import chest_in, field_of_view_warnings
from .intensity import to_hounsfield
from .orient import Orientation
from .quantify import Quantities, quantify
from .segment_masks import SegmentMasks

if TYPE_CHECKING:
    from .chest import Chest
    from .volume import CTVolume


@dataclass(frozen=True)
class Measurement:
    """Figures and curves of a segmentation.

    Attributes:
        quantities: Volumes, POI, density with its curves, severity.
        profile: Infection slice by slice.
        hu_kji: (k, j, i) the CT in HU, to measure again after the next edit.
        chest: Where it is in the CT, for the same; None if no lungs hold air.
        unseen: What of the lungs the CT does not show, a sentence each.
    """

    quantities: Quantities
    profile: AxisProfile
    hu_kji: np.ndarray
    chest: Chest | None
    unseen: tuple[str, ...]


def measure(
    source: CTVolume | np.ndarray,
    *,
    masks: SegmentMasks,
    orientation: Orientation,
    chest: Chest | None = None,
    progress: Callable[[Any], None],
    cancelled: Callable[[], bool],
) -> Measurement:
    """Return figures and curves.

    Args:
        source: The CT as it is in the scene, or (k, j, i) in HU as a measurement before has it.
        masks: The segments on the CT's grid.
        orientation: How the CT lies in the patient.
        chest: As a measurement before found it in this CT; no edit moves it, and to look takes as long as the rest.
        progress: Not told anything: it takes a second or two.
        cancelled: Asked between the steps.

    Raises:
        Cancelled: `cancelled` returned True.
    """
    hu_kji = source if isinstance(source, np.ndarray) else to_hounsfield(source).hu_kji

    def check() -> None:
        if cancelled():
            raise Cancelled

    quantities = quantify(
        hu_kji,
        geometry=masks.geometry,
        left_kji=masks.left_kji,
        right_kji=masks.right_kji,
        infection_kji=masks.infection_kji,
    )
    check()
    profile = axis_profile(masks, orientation=orientation)
    check()
    chest = chest or chest_in(hu_kji, geometry=masks.geometry)
    lungs_kji = masks.left_kji | masks.right_kji | masks.infection_kji
    unseen = field_of_view_warnings(lungs_kji, geometry=masks.geometry, chest=chest)
    return Measurement(quantities, profile, hu_kji, chest, unseen)
