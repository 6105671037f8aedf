"""Figures and curves of the segments for the section Results: arrays in, numbers out, on the worker thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..anatomy.chest import chest_in
from ..anatomy.field_of_view import field_of_view_warnings
from ..errors import Cancelled
from ..intensity import to_hounsfield
from ..orient import Orientation
from ..quantify import Quantities, quantify
from ..results.axis_profile import AxisProfile, axis_profile
from ..results.segment_masks import SegmentMasks
from ..scenes.warnings import voxels_digest

if TYPE_CHECKING:
    from ..anatomy.chest import Chest
    from ..volume import CTVolume


@dataclass(frozen=True)
class KnownCt:
    """What a measurement needs to know of a CT; it may be kept while only the segments change.

    Attributes:
        hu_kji: (k, j, i) the CT in HU.
        chest: Where the chest is; None before it is searched (half of a measurement's time), or if no lung holds air.
        warnings: About the CT itself, a sentence each.
        voxels: Their `voxels_digest`; empty if it is not yet known.
    """

    hu_kji: np.ndarray
    chest: Chest | None = None
    warnings: tuple[str, ...] = ()
    voxels: str = ""


@dataclass(frozen=True)
class Measurement:
    """Figures and curves of a segmentation.

    Attributes:
        quantities: Volumes, POI, density with its curves, severity.
        profile: Infection slice by slice.
        ct: What is known of the CT, for the next measurement.
        unseen: Warnings about parts of the lungs that the CT does not show, a sentence each.
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
        source: The CT as it is in the scene, or the `ct` of an earlier measurement.
        masks: The segments on the CT's grid.
        orientation: How the CT's grid lies in the world.
        progress: Not called: it takes a second or two.
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
        voxels = ct.voxels or voxels_digest(ct.hu_kji)
        ct = replace(ct, voxels=voxels, chest=chest_in(ct.hu_kji, geometry=masks.geometry))
    lungs_kji = masks.left_kji | masks.right_kji | masks.infection_kji
    unseen = field_of_view_warnings(lungs_kji, geometry=masks.geometry, chest=ct.chest)
    return Measurement(quantities, profile, ct, unseen)


def _known(ct: CTVolume) -> KnownCt:
    return KnownCt(ct.hu_kji, warnings=ct.warnings)
