"""Numbers from a segmentation: volumes, POI (percentage of infection), density, severity class.

Both forms of a segmentation are understood, and give equal numbers: exclusive labels, where
infection is not lung, and overlapping masks, where each lung includes its infection. A voxel
counts once in the total, even where both lung masks claim it. What is undefined is None.

Source: METHOD section 10.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .anatomy.nearest_lung import assign_infection_to_lungs
from .boxes import bounding_box
from .geometry import Geometry
from .labels import Label
from .results.hu_histogram import Density, HuHistogram, HuHistograms
from .results.severity import Severity
from .texts import text as _

#: Infection from this HU on is consolidation, below it ground glass (METHOD section 10).
CONSOLIDATION_FROM_HU = -300.0
#: Both lungs of the largest patients hold about 10 litres; above this, the header's spacing must be wrong.
LARGEST_LUNGS_ML = 12_000.0
#: Adults' lungs hold more than a litre, even when ill; so little was not found whole, or is not an adult's.
SMALLEST_LUNGS_ML = 500.0
#: Well-aerated lung, both ends included; below it is low attenuation, as in emphysema.
WELL_AERATED_HU = (-950.0, -700.0)

#: Bits of a voxel's code; the histogram of HU is taken per code.
_LEFT, _RIGHT, _INFECTION = 1, 2, 4


@dataclass(frozen=True)
class HuStatistics:
    """Density of a region in HU; all None if it has no voxel."""

    mean: float | None
    median: float | None
    p10: float | None
    p90: float | None

    @classmethod
    def of(cls, histogram: HuHistogram) -> HuStatistics:
        """Return the statistics; percentiles interpolate linearly between voxels, as numpy's do."""
        median, p10, p90 = (histogram.percentile(q) for q in (50.0, 10.0, 90.0))
        return cls(mean=histogram.mean(), median=median, p10=p10, p90=p90)

    def to_dict(self) -> dict[str, float | None]:
        """Return the part `hu` of a region in ``report.json``."""
        return asdict(self)


@dataclass(frozen=True)
class RegionQuantities:
    """Volume, infection, density and mass of one lung or of both; infection is part of the lung.

    A lung that was not found has 0 ml, and None as POI, density and mass. If there is
    infection but no lung at all, the infection still counts in the `infection_ml` of both together.
    """

    volume_ml: float
    infection_ml: float
    poi_percent: float | None
    hu: HuStatistics
    mass_g: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return this region as in ``report.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Composition:
    """What infection and lungs are made of, by HU.

    Attributes:
        ground_glass_ml: Infection below the cut point.
        consolidation_ml: Infection from the cut point on.
        well_aerated_ml: Voxels of both lungs, infected or not, from -950 to -700 HU.
        low_attenuation_ml: Voxels of both lungs, infected or not, below -950 HU.
        consolidation_from_hu: The cut point.
    """

    ground_glass_ml: float
    consolidation_ml: float
    well_aerated_ml: float
    low_attenuation_ml: float
    consolidation_from_hu: float

    def to_dict(self) -> dict[str, float]:
        """Return the part `composition` of ``report.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Quantities:
    """All numbers of a case; nothing is rounded. `density` is for drawing, and in no file."""

    lungs: RegionQuantities
    left_lung: RegionQuantities
    right_lung: RegionQuantities
    composition: Composition
    severity: Severity
    density: Density = field(compare=False, repr=False)

    @property
    def poi_percent(self) -> float | None:
        """POI of both lungs together; None if there is no lung."""
        return self.lungs.poi_percent

    def to_dict(self) -> dict[str, Any]:
        """Return the parts of ``report.json`` that hold numbers of the case."""
        return {
            "poi_percent": self.poi_percent,
            "regions": {
                "lungs": self.lungs.to_dict(),
                "left_lung": self.left_lung.to_dict(),
                "right_lung": self.right_lung.to_dict(),
            },
            "composition": self.composition.to_dict(),
            "severity": self.severity.to_dict(),
        }

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of these numbers must know: which lung is missing, lungs too large or small."""
        warnings = []
        if self.left_lung.poi_percent is None:
            warnings.append(_("No left lung in the segmentation: its figures are n/a."))
        if self.right_lung.poi_percent is None:
            warnings.append(_("No right lung in the segmentation: its figures are n/a."))
        if len(warnings) == 2:
            return (_("No lung in the segmentation: the percentage of infection is not defined."),)
        if self.lungs.volume_ml > LARGEST_LUNGS_ML:
            text = _(
                "The lungs measure {litres:.1f} litres, more than a patient's can: check the "
                "voxel spacing in the CT's header; volumes and mass are wrong if it is."
            )
            warnings.append(text.format(litres=self.lungs.volume_ml / 1000.0))
        elif self.lungs.volume_ml < SMALLEST_LUNGS_ML:
            text = _(
                "The lungs measure {ml:.0f} ml, less than an adult's can: check the segmentation, the voxel spacing "
                "in the CT's header, and whether the CT shows an adult's whole chest."
            )
            warnings.append(text.format(ml=self.lungs.volume_ml))
        return tuple(warnings)


def quantify_labelmap(
    hu_kji: np.ndarray,
    *,
    geometry: Geometry,
    labelmap_kji: np.ndarray,
    consolidation_from_hu: float = CONSOLIDATION_FROM_HU,
) -> Quantities:
    """Return the quantities of an exclusive labelmap.

    Args:
        hu_kji: (k, j, i) CT in HU.
        geometry: Grid of both arrays.
        labelmap_kji: (k, j, i) integers, values as in `Label`.
        consolidation_from_hu: Infection from this HU on is consolidation, below it ground glass.

    Raises:
        ValueError: An array does not have the grid's shape.
    """
    _check_shapes(geometry, ct=hu_kji, labelmap=labelmap_kji)
    box = bounding_box(labelmap_kji) or (slice(0, 0),) * 3
    labels = labelmap_kji[box]
    return _quantify_box(
        hu_kji[box],
        geometry=geometry,
        left_kji=labels == Label.LEFT_LUNG,
        right_kji=labels == Label.RIGHT_LUNG,
        infection_kji=labels == Label.INFECTION,
        consolidation_from_hu=consolidation_from_hu,
    )


def quantify(
    hu_kji: np.ndarray,
    *,
    geometry: Geometry,
    left_kji: np.ndarray,
    right_kji: np.ndarray,
    infection_kji: np.ndarray,
    consolidation_from_hu: float = CONSOLIDATION_FROM_HU,
) -> Quantities:
    """Return the quantities of three masks, lungs with or without their infection.

    Infection outside both lung masks counts towards the nearer lung, see
    `assign_infection_to_lungs`.

    Args:
        hu_kji: (k, j, i) CT in HU; int16 is fastest.
        geometry: Grid of all arrays.
        left_kji: (k, j, i) bool, left lung.
        right_kji: (k, j, i) bool, right lung.
        infection_kji: (k, j, i) bool, infection.
        consolidation_from_hu: Infection from this HU on is consolidation, below it ground glass.

    Raises:
        ValueError: An array does not have the grid's shape.
    """
    masks = {"left": left_kji, "right": right_kji, "infection": infection_kji}
    _check_shapes(geometry, ct=hu_kji, **masks)
    box = bounding_box(left_kji | right_kji | infection_kji) or (slice(0),) * 3
    left, right, infection = (mask[box].astype(bool, copy=False) for mask in masks.values())
    return _quantify_box(
        hu_kji[box],
        geometry=geometry,
        left_kji=left,
        right_kji=right,
        infection_kji=infection,
        consolidation_from_hu=consolidation_from_hu,
    )


def _check_shapes(geometry: Geometry, **arrays_kji: np.ndarray) -> None:
    """Raise ValueError for an array that is not on the grid."""
    for name, array in arrays_kji.items():
        if array.shape != geometry.shape_kji:
            raise ValueError(f"{name} has shape {array.shape}, expected {geometry.shape_kji} (k, j, i)")


def _quantify_box(
    hu_kji: np.ndarray,
    *,
    geometry: Geometry,
    left_kji: np.ndarray,
    right_kji: np.ndarray,
    infection_kji: np.ndarray,
    consolidation_from_hu: float,
) -> Quantities:
    """Return the quantities of arrays that were cut to the box of all masks."""
    infection_left, infection_right = assign_infection_to_lungs(
        infection_kji, left_kji=left_kji, right_kji=right_kji, geometry=geometry
    )
    histograms = HuHistograms(dtype=hu_kji.dtype, code_count=8)
    for k in range(hu_kji.shape[0]):
        code_ji = (left_kji[k] | infection_left[k]) * np.uint8(_LEFT)
        code_ji |= (right_kji[k] | infection_right[k]) * np.uint8(_RIGHT)
        code_ji |= infection_kji[k] * np.uint8(_INFECTION)
        histograms.add(hu_kji[k], code_ji)
    voxel_ml = geometry.voxel_volume_ml
    all_lung = histograms.where(lambda code: bool(code & (_LEFT | _RIGHT)))
    # All of it lies in a lung, unless no lung is there at all.
    infection = histograms.where(lambda code: bool(code & _INFECTION))
    lungs = _region(all_lung, infection=infection, voxel_ml=voxel_ml)

    def one_lung(side: int) -> RegionQuantities:
        lung = histograms.where(lambda code: bool(code & side))
        infection_in_it = histograms.where(lambda code: bool(code & side and code & _INFECTION))
        return _region(lung, infection=infection_in_it, voxel_ml=voxel_ml)

    left, right = one_lung(_LEFT), one_lung(_RIGHT)
    low_hu, high_hu = WELL_AERATED_HU
    return Quantities(
        lungs=lungs,
        left_lung=left,
        right_lung=right,
        composition=Composition(
            ground_glass_ml=infection.count(below=consolidation_from_hu) * voxel_ml,
            consolidation_ml=infection.count(start=consolidation_from_hu) * voxel_ml,
            well_aerated_ml=all_lung.count(start=low_hu, through=high_hu) * voxel_ml,
            low_attenuation_ml=all_lung.count(below=low_hu) * voxel_ml,
            consolidation_from_hu=consolidation_from_hu,
        ),
        severity=Severity.of(lungs.poi_percent, lung_poi_percent=(left.poi_percent, right.poi_percent)),
        density=Density(all_lung.percent_per_bin(), infection.percent_per_bin()),
    )


def _region(lung: HuHistogram, *, infection: HuHistogram, voxel_ml: float) -> RegionQuantities:
    """Return the quantities of a lung, or of both, and of the infection in it."""
    voxels, mean_hu = lung.count(), lung.mean()
    return RegionQuantities(
        volume_ml=voxels * voxel_ml,
        infection_ml=infection.count() * voxel_ml,
        poi_percent=100.0 * infection.count() / voxels if voxels else None,
        hu=HuStatistics.of(lung),
        # A voxel weighs (HU + 1000) / 1000 g/ml, negative below -1000 HU: clipping noise there would bias the sum.
        mass_g=None if mean_hu is None else voxels * voxel_ml * (mean_hu + 1000.0) / 1000.0,
    )
