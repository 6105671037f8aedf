"""Synthetic infection, painted into healthy lung whose border is known.

The labelled CTs show little dense consolidation at the chest wall, and networks trained on them leave it out of the
lung. Painting it into healthy lung teaches where the border of the lung is when no air shows it, and that the dense
part is infection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .label_codes import Code

if TYPE_CHECKING:
    import torch

#: Patches with fewer voxels of healthy lung get no lesion.
LUNG_VOXELS_NEEDED = 500
#: A lesion's voxels are labelled as infection above this strength (0 to 1). Consolidation stands out against air more
#: than ground glass does, so less of it suffices.
INFECTED_ABOVE = 0.5
INFECTED_ABOVE_IF_DENSE = 0.4


@dataclass(frozen=True)
class LesionRecipe:
    """How often lesions are painted, how many, and how large.

    Attributes:
        probability: Share of patches that get lesions.
        most: Largest number of lesions per patch.
        radius_mm: Range of a lesion's radius before it is stretched along the axes.
        dense_share: Share of lesions that are consolidation; the others are ground glass.
    """

    probability: float = 0.25
    most: int = 3
    radius_mm: tuple[float, float] = (6.0, 50.0)
    dense_share: float = 0.5


def paint_lesions(
    hu: torch.Tensor,
    codes: torch.Tensor,
    *,
    spacing_kji_mm: tuple[float, float, float],
    recipe: LesionRecipe,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a patch with lesions in its healthy lung, and its codes; new tensors if any was painted.

    Args:
        hu: (k, j, i) float32 HU.
        codes: (k, j, i) uint8 label codes.
        spacing_kji_mm: Voxel spacing.
        recipe: How often and how large.
        rng: Source of all randomness.
    """
    if rng.random() >= recipe.probability:
        return hu, codes
    lung = (codes == int(Code.LEFT_LUNG)) | (codes == int(Code.RIGHT_LUNG))
    places = lung.nonzero()
    if len(places) < LUNG_VOXELS_NEEDED:
        return hu, codes
    hu, codes = hu.clone(), codes.clone()
    for _ in range(int(rng.integers(1, recipe.most + 1))):
        center = places[int(rng.integers(len(places)))]
        strength = _blob(hu, center, spacing_kji_mm=spacing_kji_mm, radius_mm=recipe.radius_mm, rng=rng) * lung
        dense = rng.random() < recipe.dense_share
        hu = _densified(hu, strength, dense=dense, rng=rng)
        codes[strength > (INFECTED_ABOVE_IF_DENSE if dense else INFECTED_ABOVE)] = int(Code.INFECTION)
    return hu, codes


def _blob(
    like: torch.Tensor,
    center_kji: torch.Tensor,
    *,
    spacing_kji_mm: tuple[float, float, float],
    radius_mm: tuple[float, float],
    rng: np.random.Generator,
) -> torch.Tensor:
    """Return a ragged ellipsoid (k, j, i), 1 inside, 0 outside, soft at its border."""
    import torch

    radii_mm = rng.uniform(*radius_mm) * rng.uniform(0.6, 1.5, size=3)
    squared = _smooth_noise(like, cells=7, rng=rng) * float(rng.uniform(0.2, 0.6))
    for axis, (spacing, radius) in enumerate(zip(spacing_kji_mm, radii_mm, strict=True)):
        line = torch.arange(like.shape[axis], dtype=like.dtype, device=like.device)
        line = (line - center_kji[axis]) * (spacing / float(radius))
        squared = squared + (line * line).reshape([-1 if n == axis else 1 for n in range(3)])
    return torch.sigmoid((1.0 - squared) * float(rng.uniform(4.0, 14.0)))


def _densified(hu: torch.Tensor, strength: torch.Tensor, *, dense: bool, rng: np.random.Generator) -> torch.Tensor:
    """Return HU with air replaced by fluid in the lesion; through ground glass, vessels and walls stay visible."""
    texture = _smooth_noise(hu, cells=24, rng=rng)
    if dense:
        target = float(rng.uniform(-80.0, 60.0)) + texture * float(rng.uniform(5.0, 60.0))
        return hu + strength * (target - hu)
    # Ground glass adds to the density that is there, and adds less where the lung is dense already.
    room = ((50.0 - hu) / 900.0).clamp(0.0, 1.0)
    return hu + strength * room * (float(rng.uniform(180.0, 480.0)) + texture * float(rng.uniform(20.0, 110.0)))


def _smooth_noise(like: torch.Tensor, *, cells: int, rng: np.random.Generator) -> torch.Tensor:
    """Return smooth noise of about unit standard deviation with the shape of `like`."""
    import torch
    from torch.nn import functional

    nodes = torch.from_numpy(rng.normal(0.0, 1.6, size=(1, 1, cells, cells, cells)).astype(np.float32)).to(like.device)
    return functional.interpolate(nodes, size=tuple(like.shape), mode="trilinear", align_corners=True)[0, 0]
