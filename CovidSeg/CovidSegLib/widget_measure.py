"""What the section Results shows of the segments as they are now; arrays in, numbers out, on the worker thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .axis_profile import AxisProfile, axis_profile
from .boxes import bounding_box
from .errors import Cancelled
from .field_of_view import chest_in, field_of_view_warnings
from .intensity import to_hounsfield
from .orient import Orientation
from .quantify import Quantities, quantify
from .segment_masks import SegmentMasks

if TYPE_CHECKING:
    from .chest import Chest
    from .volume import CTVolume

HISTOGRAM_HU = (-1050, 150)
BIN_HU = 20


@dataclass(frozen=True)
class Density:
    """How the HU of a region are distributed.

    Attributes:
        hu: (n,) the middle of each bin.
        lungs_percent: (n,) share of the lungs' voxels, infection included.
        infection_percent: (n,) share of the infection's voxels.
    """

    hu: np.ndarray
    lungs_percent: np.ndarray
    infection_percent: np.ndarray


@dataclass(frozen=True)
class Measurement:
    """Figures and curves of a segmentation.

    Attributes:
        quantities: Volumes, POI, density, severity.
        profile: Infection slice by slice.
        density: Histogram of HU.
        hu_kji: (k, j, i) the CT in HU, to measure again after the next edit.
        chest: Where it is in the CT, for the same; None if no lungs hold air.
        unseen: What of the lungs the CT does not show, a sentence each.
    """

    quantities: Quantities
    profile: AxisProfile
    density: Density
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
    density = density_of(hu_kji, masks=masks)
    check()
    chest = chest or chest_in(hu_kji, geometry=masks.geometry)
    lungs_kji = masks.left_kji | masks.right_kji | masks.infection_kji
    unseen = field_of_view_warnings(lungs_kji, geometry=masks.geometry, chest=chest)
    return Measurement(quantities, profile, density, hu_kji, chest, unseen)


def density_of(hu_kji: np.ndarray, *, masks: SegmentMasks) -> Density:
    """Return the histograms of lungs and infection; what lies beyond the bins counts towards the whole."""
    start, stop = HISTOGRAM_HU
    edges = np.arange(start, stop + BIN_HU, BIN_HU)
    box = bounding_box(masks.left_kji | masks.right_kji | masks.infection_kji) or (slice(0, 0),) * 3
    infection = masks.infection_kji[box]
    lungs = masks.left_kji[box] | masks.right_kji[box] | infection
    shares = []
    for region in (lungs, infection):
        counts, _ = np.histogram(hu_kji[box][region], bins=edges)
        shares.append(100.0 * counts / max(int(np.count_nonzero(region)), 1))
    return Density(edges[:-1] + BIN_HU / 2.0, *shares)
