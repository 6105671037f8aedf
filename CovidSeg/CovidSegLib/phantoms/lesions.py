"""Infection of the phantom: where ground glass and consolidation lie, and how dense they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Anatomy, Array, SmoothNoise

#: Both lungs of a standard adult.
_LUNGS_MM3 = 4.2e6
#: Volume of a ball of radius 1, rounded; a better value would change the patient that a seed stands for.
_UNIT_BALL = 4.2


@dataclass(frozen=True)
class LesionSample:
    """Infection at lung points (flat arrays of the same length).

    Attributes:
        infected: bool; the true infection.
        weight: 0 to 1; how much of the lung's density the lesion replaces (soft edges).
        density_hu: The lesion's own density.
    """

    infected: Array
    weight: Array
    density_hu: Array


class Lesions:
    """Random lesions that take a given share of the lungs, whatever the voxel size.

    A score field (blobs around random centres with ragged, noisy borders) is cut at the level that
    leaves the wanted share of a fixed, coarse sample of the lungs.
    """

    def __init__(self, rng: np.random.Generator, *, anatomy: Anatomy, lung_points_mm: Array, share: float) -> None:
        """Draw lesions.

        Args:
            rng: Where all randomness comes from.
            anatomy: The patient.
            lung_points_mm: (n, 3) evenly spread points of both lungs, body frame.
            share: Infected share of the lungs, 0 to 1.
        """
        self.share = share
        self._rough = SmoothNoise(rng, feature_mm=float(rng.uniform(16, 30)))
        self._fine = SmoothNoise(rng, feature_mm=float(rng.uniform(6, 10)))
        self._texture = SmoothNoise(rng, feature_mm=float(rng.uniform(4, 7)))
        self._raggedness = float(rng.uniform(0.12, 0.4))
        count = int(rng.integers(2, 6) + 26 * min(1.0, share / 0.25) * rng.uniform(0.4, 1.0))
        self._centres = _spread(rng, anatomy=anatomy, points=lung_points_mm, count=count)
        volume_mm3 = max(share, 0.002) * _LUNGS_MM3 / count
        self._radius = np.cbrt(volume_mm3 / _UNIT_BALL) * rng.lognormal(0.25, 0.45, count)
        self._flat = rng.uniform(0.6, 1.5, (count, 3))
        self._level_hu = rng.uniform(-650.0, -350.0, count) + rng.normal(0, 30, count)
        self._paving = bool(rng.random() < 0.35)
        self._softness = float(rng.uniform(0.05, 0.28))
        self._consolidated_share = float(rng.choice([0.0, rng.uniform(0.05, 0.25), rng.uniform(0.25, 0.6)]))
        self._sharp_solid = bool(rng.random() < 0.2)
        self._solid_hu = float(rng.uniform(-20.0, 45.0))
        self._cut, self._solid_cut = np.inf, np.inf
        if share > 0:
            score, solid, _ = self._scores(lung_points_mm)
            self._cut = float(np.quantile(score, 1.0 - share))
            inside = solid[score > self._cut]
            if self._consolidated_share > 0 and inside.size:
                self._solid_cut = float(np.quantile(inside, 1.0 - self._consolidated_share))

    def at(self, points_mm: Array) -> LesionSample:
        """Return the infection at (n, 3) lung points of the body frame."""
        if self.share <= 0:
            none = np.zeros(len(points_mm), dtype=bool)
            return LesionSample(none, none.astype(np.float32), none.astype(np.float32))
        score, solid, level = self._scores(points_mm)
        infected = score > self._cut
        weight = np.clip(0.5 + (score - self._cut) / self._softness, 0.0, 1.0)
        depth = np.clip(0.5 + (solid - self._solid_cut) / 0.06, 0.0, 1.0) * infected
        if self._sharp_solid:
            weight = np.maximum(weight, depth)
        density = np.zeros_like(weight)
        ill = np.flatnonzero(weight)
        density[ill] = self._density(points_mm[ill], level[ill], depth[ill])
        return LesionSample(infected, weight, density)

    def _density(self, points_mm: Array, level_hu: Array, depth: Array) -> Array:
        """Return the lesions' HU: textured ground glass, with thickened septa in some, turning solid with `depth`."""
        x, y, z = points_mm.T
        texture = self._texture(x, y, z)
        glass = level_hu + 45.0 * texture + 40.0 * self._rough(y, z, x + 150)
        if self._paving:
            glass = glass + 190.0 * np.clip(1.0 - np.abs(texture) / 0.35, 0.0, 1.0)
        return np.asarray(glass + depth * (self._solid_hu + 8.0 * texture - glass))

    def _scores(self, points_mm: Array) -> tuple[Array, Array, Array]:
        """Return the lesion score, the consolidation score, and the ground glass density of the nearest blob."""
        points = np.asarray(points_mm, dtype=np.float32)
        best = np.full(len(points), -9.0, dtype=np.float32)
        level = np.zeros(len(points), dtype=np.float32)
        for centre, radius, flat, hu in zip(self._centres, self._radius, self._flat, self._level_hu, strict=True):
            scaled = (points - centre.astype(np.float32)) / (radius * flat).astype(np.float32)
            score = 1.0 - np.sqrt(np.einsum("nd,nd->n", scaled, scaled))
            nearer = score > best
            best[nearer] = score[nearer]
            level[nearer] = hu
        x, y, z = points.T
        rough, fine = self._rough(x, y, z), self._fine(x, y, z)
        score = best + np.float32(self._raggedness) * rough + np.float32(0.5 * self._raggedness) * fine
        solid = score + np.float32(0.25) * self._rough(z + 300, x, y)
        return score, solid, level


def _spread(rng: np.random.Generator, *, anatomy: Anatomy, points: Array, count: int) -> Array:
    """Return `count` lesion centres: mostly near the pleura, at the back and at the base."""
    surface, _ = anatomy.lungs(*points.T.astype(np.float32))
    x, y, z = points.T
    weight = np.exp(surface / 9.0) * (1.0 / (1.0 + np.exp(-(y - 10.0) / 25.0)) + 0.12)
    weight = weight * (1.0 / (1.0 + np.exp((z + 10.0) / 40.0)) + 0.2) + 0.01
    if rng.random() < 0.25:  # one-sided disease
        weight = weight * np.where(x * rng.choice([-1.0, 1.0]) > 0, 1.0, 0.05)
    return points[rng.choice(len(points), size=count, p=weight / weight.sum())]
