"""What the section Results shows of the segments as they are now; arrays in, numbers out, on the worker thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
class KnownCt:
    """What a measurement needs of a CT, and may be kept while only the segments change.

    Attributes:
        hu_kji: (k, j, i) the CT in HU.
        chest: Where it is; None if no lungs hold air, or before anybody looked, which takes as long as the rest.
        warnings: What to know of the CT itself, a sentence each.
    """

    hu_kji: np.ndarray
    chest: Chest | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """Figures and curves of a segmentation.

    Attributes:
        quantities: Volumes, POI, density with its curves, severity.
        profile: Infection slice by slice.
        ct: To measure again after the next edit.
        unseen: What of the lungs the CT does not show, a sentence each.
    """

    quantities: Quantities
    profile: AxisProfile
    ct: KnownCt
    unseen: tuple[str, ...]


def measure(
    source: CTVolume | KnownCt,
    *,
    masks: SegmentMasks,
    orientation: Orientation,
    progress: Callable[[Any], None],
    cancelled: Callable[[], bool],
) -> Measurement:
    """Return figures and curves.

    Args:
        source: The CT as it is in the scene, or as a measurement before left it.
        masks: The segments on the CT's grid.
        orientation: How the CT lies in the patient.
        progress: Not told anything: it takes a second or two.
        cancelled: Asked between the steps.

    Raises:
        Cancelled: `cancelled` returned True.
    """
    ct = source if isinstance(source, KnownCt) else _known(to_hounsfield(source))

    def check() -> None:
        if cancelled():
            raise Cancelled

    quantities = quantify(
        ct.hu_kji,
        geometry=masks.geometry,
        left_kji=masks.left_kji,
        right_kji=masks.right_kji,
        infection_kji=masks.infection_kji,
    )
    check()
    profile = axis_profile(masks, orientation=orientation)
    check()
    if ct.chest is None:
        ct = replace(ct, chest=chest_in(ct.hu_kji, geometry=masks.geometry))
    lungs_kji = masks.left_kji | masks.right_kji | masks.infection_kji
    unseen = field_of_view_warnings(lungs_kji, geometry=masks.geometry, chest=ct.chest)
    return Measurement(quantities, profile, ct, unseen)


def _known(ct: CTVolume) -> KnownCt:
    return KnownCt(ct.hu_kji, warnings=ct.warnings)
