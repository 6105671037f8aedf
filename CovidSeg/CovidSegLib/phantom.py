"""A synthetic chest CT with known lungs and infection: for demos, tests, and as training material.

Body, airways, vessels, lesions and scanner are drawn from one seed, in mm, so that another voxel size
shows the same patient. The labels are those of `labels.Label`, exact by construction. Leaves out:
lobes, bronchiectasis, breathing motion, and other disease but for an effusion or a missing lung on request.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .geometry import Geometry
from .labels import Label
from .phantoms.anatomy import MIDLINE_MM, Anatomy, Array
from .phantoms.lesions import Lesions
from .phantoms.painter import SIDE_LABEL, Findings, Painter, Side, random_stream
from .phantoms.vessels import TubularAnatomy
from .quantify import CONSOLIDATION_FROM_HU

if TYPE_CHECKING:
    from .volume import CTVolume


@dataclass(frozen=True)
class PhantomTruth:
    """What is in a phantom, counted on its voxels; percentages as METHOD section 10, None without that lung.

    `ground_glass_ml` and `consolidation_ml` divide the infection by the HU of the finished CT, as `quantify` does.
    """

    poi_percent: float | None
    poi_left_percent: float | None
    poi_right_percent: float | None
    lung_ml: float
    left_lung_ml: float
    right_lung_ml: float
    infection_ml: float
    ground_glass_ml: float
    consolidation_ml: float


@dataclass(frozen=True)
class Phantom:
    """A synthetic case.

    Attributes:
        ct: The image, int16 HU.
        labelmap_kji: (k, j, i) uint8, exclusive labels (infection wins).
        lung_side_kji: (k, j, i) uint8; the whole lungs, infection included: 1 left, 2 right.
        truth: Volumes and percentages.
    """

    ct: CTVolume
    labelmap_kji: Array
    lung_side_kji: Array
    truth: PhantomTruth


def make_phantom(
    *,
    seed: int,
    size_ijk: tuple[int, int, int] = (192, 160, 96),
    spacing_ijk_mm: tuple[float, float, float] = (1.9, 1.9, 3.2),
    infection_percent: float | None = None,
    consolidated_lung: Side | None = None,
    effusion: Side | None = None,
    missing_lung: Side | None = None,
    center_lps_mm: tuple[float, float, float] = (0.0, 0.0, -15.0),
) -> Phantom:
    """Return a random patient's chest CT and its true segmentation, the same for the same arguments.

    Args:
        seed: Chooses body, lesions and scanner; the same patient at any size, spacing and centre.
        size_ijk: Voxels; i runs to the patient's left, j to the back, k to the head.
        spacing_ijk_mm: Voxel size.
        infection_percent: Infected share of the lungs, met within about one point; 0 is healthy, None leaves it to
            the seed (0 to 60, one in eight healthy).
        consolidated_lung: This whole lung is consolidated, and infection.
        effusion: Fluid in this pleural space; background in the labels, as it is not lung.
        missing_lung: This lung was removed, its space filled with soft tissue; background in the labels.
        center_lps_mm: Scanner position of the image's centre; the lungs lie around (0, 0, -15), so that
            a shifted centre or a small image crops the field of view.

    Raises:
        ValueError: A size below 1, a spacing not above 0, an infection outside 0 to 90 percent.
    """
    from .volume import CTVolume

    _check(size_ijk=size_ijk, spacing_ijk_mm=spacing_ijk_mm, infection_percent=infection_percent)
    geometry = _geometry(size_ijk, spacing_ijk_mm, center_lps_mm)
    anatomy = Anatomy.random(random_stream(seed, 0))
    lung_points = _lung_points(anatomy)
    tubes = TubularAnatomy.random(random_stream(seed, 1), anatomy=anatomy, lung_points_mm=lung_points)
    share = _share(random_stream(seed, 3), infection_percent)
    present = _present(lung_points, missing_lung=missing_lung)
    lesions = Lesions(random_stream(seed, 2), anatomy=anatomy, lung_points_mm=present, share=share)
    painter = Painter(seed, geometry=geometry, anatomy=anatomy, lesions=lesions)
    painter.paint_body(Findings(consolidated_lung, effusion, missing_lung))
    painter.paint_tubes(tubes)
    image = painter.scan()
    labelmap = painter.region.copy()
    labelmap[painter.infected] = Label.INFECTION
    name = f"phantom-{seed}"
    return Phantom(
        ct=CTVolume(hu_kji=image, geometry=geometry, name=name, fingerprint=_fingerprint(image, geometry)),
        labelmap_kji=labelmap,
        lung_side_kji=painter.region,
        truth=_truth(image, labelmap=labelmap, side=painter.region, geometry=geometry),
    )


def _check(
    *, size_ijk: tuple[int, int, int], spacing_ijk_mm: tuple[float, float, float], infection_percent: float | None
) -> None:
    if min(size_ijk) < 1 or min(spacing_ijk_mm) <= 0:
        raise ValueError(f"a phantom needs a positive size and spacing, not {size_ijk} at {spacing_ijk_mm} mm")
    if infection_percent is not None and not 0 <= infection_percent <= 90:
        raise ValueError(f"infection is a percentage from 0 to 90, not {infection_percent}")


def _share(rng: np.random.Generator, infection_percent: float | None) -> float:
    if infection_percent is not None:
        return infection_percent / 100.0
    return float(rng.choice([0.0, rng.beta(0.8, 2.6)], p=[0.125, 0.875]) * 0.6)


def _geometry(
    size_ijk: tuple[int, int, int], spacing_ijk_mm: tuple[float, float, float], centre: tuple[float, float, float]
) -> Geometry:
    origin = [c - 0.5 * s * (n - 1) for c, s, n in zip(centre, spacing_ijk_mm, size_ijk, strict=True)]
    return Geometry(size_ijk, spacing_ijk_mm, (float(origin[0]), float(origin[1]), float(origin[2])))


def _lung_points(anatomy: Anatomy) -> Array:
    """Return (n, 3) points on a 5 mm lattice inside the lungs, body frame."""
    axes = (np.arange(-142, 143, 5.0), np.arange(-105, 106, 5.0), np.arange(-165, 131, 5.0))
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]).astype(np.float32)
    lungs, _ = anatomy.lungs(*points)
    return points.T[lungs < 0].astype(np.float64)


def _present(lung_points: Array, *, missing_lung: Side | None) -> Array:
    """Return the points of the lungs that are still there."""
    if missing_lung is None:
        return lung_points
    return lung_points[(lung_points[:, 0] > MIDLINE_MM) == (missing_lung == "right")]


def _fingerprint(image: Array, geometry: Geometry) -> str:
    return "sha256:" + hashlib.sha256(repr(geometry).encode() + image.tobytes()).hexdigest()


def _truth(image: Array, *, labelmap: Array, side: Array, geometry: Geometry) -> PhantomTruth:
    infected = labelmap == Label.INFECTION
    ml = geometry.voxel_volume_ml

    def percent(part: int, whole: int) -> float | None:
        return 100.0 * part / whole if whole else None

    lung = {label: int(np.count_nonzero(side == label)) for label in SIDE_LABEL.values()}
    ill = {label: int(np.count_nonzero(infected & (side == label))) for label in SIDE_LABEL.values()}
    left, right = Label.LEFT_LUNG, Label.RIGHT_LUNG
    dense = int(np.count_nonzero(image[infected] >= CONSOLIDATION_FROM_HU))
    total_ill = ill[left] + ill[right]
    return PhantomTruth(
        poi_percent=percent(total_ill, lung[left] + lung[right]),
        poi_left_percent=percent(ill[left], lung[left]),
        poi_right_percent=percent(ill[right], lung[right]),
        lung_ml=(lung[left] + lung[right]) * ml,
        left_lung_ml=lung[left] * ml,
        right_lung_ml=lung[right] * ml,
        infection_ml=total_ill * ml,
        ground_glass_ml=(total_ill - dense) * ml,
        consolidation_ml=dense * ml,
    )
