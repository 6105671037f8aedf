"""How sure the network is: the entropy of its averaged softmax, and where a reader should look again.

The entropy says how open the network's choice among the four classes is; it says nothing of what the
network has never seen. Labels do not depend on it, nor on the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .boxes import Box, bounding_box, grown
from .geometry import Geometry

#: Voxels whose uncertainty is less are not doubtful: of two classes, the likelier then has more than about 88 %.
DOUBTFUL_FROM_PERCENT = 25
#: Regions consist of this most doubtful share of the lungs' voxels. A temperature raises or lowers the whole map, but
#: keeps its order.
MOST_DOUBTFUL_SHARE = 0.05
#: Doubt nearer than this to the outer border of the lungs is about where that border runs.
BORDER_MM = 4.0
#: A consolidation that was taken for chest wall may lie this far beyond that border.
NEXT_TO_MM = 15.0
#: Doubt into which no ball of this radius fits is a seam between two classes, however long.
SEAM_RADIUS_MM = 2.5
#: Regions are sought on every n-th voxel of the CT, no farther apart than this (less than `SEAM_RADIUS_MM`) unless the
#: CT's own voxels are.
GRID_MM = 2.4


def tempered(probabilities: np.ndarray, *, temperature: float) -> np.ndarray:
    """Return probabilities as if their logits had been divided by a temperature.

    Above 1 all become less sure, below 1 surer; the order of the classes stays.

    Args:
        probabilities: (classes, ...) float32, their sum over the first axis 1; not modified.
        temperature: Above 0.

    Source: Guo et al., "On calibration of modern neural networks" (ICML 2017), section 4.2.
    """
    if temperature == 1.0:
        return probabilities
    # Divided by the largest first: a high power of small numbers would vanish in all classes.
    powers = (probabilities / probabilities.max(axis=0)) ** np.float32(1.0 / temperature)
    return np.asarray(powers / powers.sum(axis=0))


def entropy(probabilities: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Return the entropy of class probabilities as a share of its maximum: 0 if sure, 1 if all classes are equal.

    Of four classes, two equally likely ones, the others being excluded, give 0.5.

    Args:
        probabilities: (classes, k, ...) float32, their sum over the first axis 1; not modified.
        temperature: See `tempered`.

    Returns:
        (k, ...) float32 from 0 to 1.
    """
    found = np.empty(probabilities.shape[1:], dtype=np.float32)
    for k in range(probabilities.shape[1]):  # a slice at a time: logarithms of the whole would double the memory
        p = tempered(probabilities[:, k], temperature=temperature)
        found[k] = -(p * np.log(np.maximum(p, np.finfo(np.float32).tiny))).sum(axis=0)
    return np.clip(found / np.float32(np.log(len(probabilities))), 0.0, 1.0, out=found)


@dataclass(frozen=True)
class UncertainRegion:
    """A place where the network was unsure; the panel leads a reader from one to the next.

    Attributes:
        center_ijk: The voxel of the region nearest to its middle, on the CT's grid.
        volume_ml: Its volume.
        mean_percent: Mean of the uncertainty map over it.
    """

    center_ijk: tuple[int, int, int]
    volume_ml: float
    mean_percent: float

    @property
    def weight(self) -> float:
        """What regions are sorted by: mean uncertainty times volume."""
        return self.mean_percent * self.volume_ml


def uncertain_regions(
    uncertainty_kji: np.ndarray, *, labelmap_kji: np.ndarray, geometry: Geometry, most: int = 20
) -> list[UncertainRegion]:
    """Return the regions of doubt about infection in and next to the lungs, the most important first.

    Where two classes meet, the map is high along the whole seam, and highest at the lungs' outer border.
    That is doubt about a line, not about infection. So a region keeps clear of that border (`BORDER_MM` to
    either side), and is everywhere as thick as a ball of `SEAM_RADIUS_MM` (a morphological opening: seams
    vanish, lumps stay). Doubt in such a place is about what a thing is: inside the lungs, infection or
    not; up to `NEXT_TO_MM` outside, consolidation or chest wall. What is missed for it: thin doubt under
    the pleura, and lesions of a few mm. Seams between slices thicker than the ball are not told from lumps.

    Args:
        uncertainty_kji: (k, j, i) uint8 in per cent, of `segment`.
        labelmap_kji: (k, j, i) uint8 of `labels.Label`.
        geometry: Grid of both.
        most: Largest number of regions returned.

    Raises:
        ValueError: Map or labelmap do not have the grid's shape.
    """
    from scipy import ndimage

    if not uncertainty_kji.shape == labelmap_kji.shape == geometry.shape_kji:
        raise ValueError(
            f"uncertainty {uncertainty_kji.shape} and labelmap {labelmap_kji.shape} on a grid of {geometry.shape_kji}"
        )
    box = bounding_box(labelmap_kji)
    if box is None:
        return []
    spacing_mm = np.array(geometry.spacing_ijk_mm[::-1])
    steps = np.maximum(1, (GRID_MM / spacing_mm).astype(int))
    seen = _widened(box, steps=steps, spacing_mm=spacing_mm, shape=geometry.shape_kji)
    doubt, lungs = uncertainty_kji[seen], labelmap_kji[seen] > 0
    grid_mm = steps * spacing_mm
    looked_at = _away_from_border(lungs, grid_mm=grid_mm)
    in_lungs = doubt[looked_at & lungs]
    least = np.quantile(in_lungs, 1.0 - MOST_DOUBTFUL_SHARE) if in_lungs.size else 0
    lumps = _opened(looked_at & (doubt >= max(least, DOUBTFUL_FROM_PERCENT)), grid_mm=grid_mm)
    pieces, _ = ndimage.label(lumps, structure=np.ones((3, 3, 3)))
    regions = []
    for number, part in enumerate(ndimage.find_objects(pieces), start=1):
        index = np.argwhere(pieces[part] == number) + [axis.start for axis in part]
        nearest = index[(((index - index.mean(axis=0)) * grid_mm) ** 2).sum(axis=1).argmin()]
        k, j, i = (int(axis.start + n * axis.step) for axis, n in zip(seen, nearest, strict=True))
        regions.append(
            UncertainRegion(
                center_ijk=(i, j, k),
                volume_ml=len(index) * float(np.prod(grid_mm)) / 1000.0,
                mean_percent=float(doubt[tuple(index.T)].mean()),
            )
        )
    return sorted(regions, key=lambda region: -region.weight)[:most]


def _widened(box: Box, *, steps: np.ndarray, spacing_mm: np.ndarray, shape: tuple[int, ...]) -> Box:
    """Return the box with room for what lies next to the lungs, taking every n-th voxel as `steps` says."""
    room = grown(box, margin_kji=np.ceil(NEXT_TO_MM / spacing_mm).tolist(), shape_kji=shape)
    k, j, i = (slice(part.start, part.stop, step) for part, step in zip(room, steps.tolist(), strict=True))
    return (k, j, i)


def _away_from_border(lungs: np.ndarray, *, grid_mm: np.ndarray) -> np.ndarray:
    """Return the mask of what lies inside the lungs or next to them, but not at their border."""
    from scipy import ndimage

    outside_mm = ndimage.distance_transform_edt(~lungs, sampling=grid_mm)
    depth_mm = ndimage.distance_transform_edt(lungs, sampling=grid_mm)
    return np.asarray((depth_mm > BORDER_MM) | ((outside_mm > BORDER_MM) & (outside_mm <= NEXT_TO_MM)))


def _opened(mask: np.ndarray, *, grid_mm: np.ndarray) -> np.ndarray:
    """Return the parts of a mask in which a ball of `SEAM_RADIUS_MM` fits."""
    from scipy import ndimage

    cores = ndimage.distance_transform_edt(mask, sampling=grid_mm) > SEAM_RADIUS_MM
    if not cores.any():
        return np.zeros_like(mask)
    return np.asarray(mask & (ndimage.distance_transform_edt(~cores, sampling=grid_mm) <= SEAM_RADIUS_MM))
