"""Draws a phantom patient onto a voxel grid: body, lungs, lesions, tubes, and what belongs to which lung."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..geometry import Geometry
from ..labels import Label
from .anatomy import HILA_MM, MIDLINE_MM, Anatomy, Array, SmoothNoise
from .lesions import Lesions
from .scanner import Scanner, scanned, surroundings
from .tissue import Densities, Points, bones, parenchyma, soft_tissue
from .tubes import Tubes, draw_tubes, widened
from .vessels import TubularAnatomy

Side = Literal["left", "right"]
SIDE_LABEL: dict[Side, Label] = {"left": Label.LEFT_LUNG, "right": Label.RIGHT_LUNG}
# While drawing, regions are 0 elsewhere, 1 left lung, 2 right lung, and this one for the lungs' roots.
_HILUM = 3
# Slabs of about this many voxels bound the memory of the many intermediate fields.
_SLAB_VOXELS = 1_500_000


def random_stream(seed: int, number: int) -> np.random.Generator:
    """Return an independent generator, so that an option never shifts another part's random numbers."""
    return np.random.default_rng([seed, number])


@dataclass(frozen=True)
class Findings:
    """What the caller asked for beside the random patient."""

    consolidated_lung: Side | None
    effusion: Side | None
    missing_lung: Side | None


class Painter:
    """The image while it is being drawn: densities, regions and infection on the voxel grid."""

    def __init__(self, seed: int, *, geometry: Geometry, anatomy: Anatomy, lesions: Lesions) -> None:
        self.geometry, self.anatomy, self.lesions = geometry, anatomy, lesions
        rng = random_stream(seed, 4)
        self.densities = Densities.random(rng)
        self.scanner = Scanner.random(rng)
        self.fine, self.coarse = SmoothNoise(rng, feature_mm=7.0), SmoothNoise(rng, feature_mm=45.0)
        self._consolidated_hu = float(rng.uniform(25, 50))
        self._effusion_mm = float(rng.uniform(20, 60))
        self._surroundings_rng, self._noise_rng = random_stream(seed, 5), random_stream(seed, 6)
        spacing = geometry.spacing_ijk_mm
        x, y, z = (
            (geometry.origin_lps_mm[n] + spacing[n] * np.arange(geometry.size_ijk[n])).astype(np.float32)
            for n in range(3)
        )
        self.axes_mm = (x, y, z)
        self.edge_mm = max(0.6, 0.8 * float(np.sqrt(spacing[0] * spacing[1])))
        self.hu = np.empty(geometry.shape_kji, dtype=np.float32)
        self.region = np.zeros(geometry.shape_kji, dtype=np.uint8)
        self.infected = np.zeros(geometry.shape_kji, dtype=bool)

    def paint_body(self, findings: Findings) -> None:
        """Draw everything but tubes, some slices at a time to bound the memory."""
        x, y, z = self.axes_mm
        back = _back_mm(self.anatomy)
        flat = surroundings(x, y, scanner=self.scanner, rng=self._surroundings_rng, back_mm=back, edge_mm=self.edge_mm)
        depth = max(1, _SLAB_VOXELS // flat.size)
        for first in range(0, z.size, depth):
            slab = slice(first, min(first + depth, z.size))
            grid = self.anatomy.to_body(x[None, None, :], y[None, :, None], z[slab][:, None, None])
            skin = self.anatomy.skin(*grid)
            inside = np.flatnonzero(skin.ravel() < self.edge_mm)
            hu = np.broadcast_to(flat, skin.shape).copy().ravel()
            if inside.size:
                self._paint_points(hu, inside, grid=grid, skin=skin, slab=slab, findings=findings)
            self.hu[slab] = hu.reshape(skin.shape)

    def _paint_points(
        self, hu: Array, inside: Array, *, grid: tuple[Array, ...], skin: Array, slab: slice, findings: Findings
    ) -> None:
        """Draw the body's voxels (flat indices `inside` of a slab) into the flat `hu` and the regions."""
        x, y, z = (axis.ravel()[inside] for axis in grid)
        lungs, wall = self.anatomy.lungs(x, y, z)
        points = Points(
            x, y, z, skin.ravel()[inside], wall, lungs, self.fine(x, y, z), self.edge_mm / self.anatomy.size
        )
        body = soft_tissue(points, anatomy=self.anatomy, densities=self.densities, outside=hu[inside])
        bones(body, points, anatomy=self.anatomy, densities=self.densities)
        region = np.zeros(inside.size, dtype=np.uint8)
        hilum = (np.abs(x - HILA_MM) - 34.0) ** 2 + (y - 10.0) ** 2 + (0.8 * (z + 14.0)) ** 2 < 24.0**2
        region[hilum & (lungs >= 0)] = _HILUM
        near = np.flatnonzero(lungs < 0.5 * points.edge_mm)
        infected = np.zeros(inside.size, dtype=bool)
        if near.size:
            part = points.at(near)
            density, lung_region, ill = self._lung(part, findings)
            cover = np.clip(0.5 - part.lungs / points.edge_mm, 0.0, 1.0)
            body[near] += (density - body[near]) * cover
            within = part.lungs < 0
            region[near[within]] = lung_region[within]
            infected[near[within]] = ill[within]
        hu[inside] = body
        for target, values in ((self.region, region), (self.infected, infected)):
            target[slab].reshape(-1)[inside] = values

    def _lung(self, part: Points, findings: Findings) -> tuple[Array, Array, Array]:
        """Return HU, region and infected of points in or at the lungs."""
        hu = parenchyma(part, anatomy=self.anatomy, densities=self.densities, coarse=self.coarse)
        lesion = self.lesions.at(np.stack([part.x, part.y, part.z], axis=1))
        hu += (lesion.density_hu - hu) * lesion.weight
        region = np.where(part.x > MIDLINE_MM, Label.LEFT_LUNG, Label.RIGHT_LUNG).astype(np.uint8)
        infected = lesion.infected.copy()
        if findings.consolidated_lung is not None:
            whole = region == SIDE_LABEL[findings.consolidated_lung]
            hu[whole] = self._consolidated_hu + 6.0 * part.noise[whole]
            infected[whole] = True
        if findings.effusion is not None:
            level = part.y - (92.0 - self._effusion_mm + 0.12 * (part.z + 90.0) - 0.0015 * (np.abs(part.x) - 62.0) ** 2)
            here = region == SIDE_LABEL[findings.effusion]
            squeezed = here * np.clip(1.0 + level / 7.0, 0.0, 1.0)
            hu += (25.0 - hu) * squeezed
            fluid = here & (level > 0)
            hu[fluid] = 8.0 + 3.0 * part.noise[fluid]
            region[fluid] = Label.BACKGROUND
        if findings.missing_lung is not None:
            gone = region == SIDE_LABEL[findings.missing_lung]
            hu[gone] = 28.0 + 8.0 * part.noise[gone]
            region[gone] = Label.BACKGROUND
        outside = region == Label.BACKGROUND
        infected[outside] = False
        return hu, region, infected

    def paint_tubes(self, tubes: TubularAnatomy) -> None:
        """Draw bones, vessels and airways; the trachea and main bronchi are cut out of the lungs."""
        d = self.densities
        in_lung = self.region > 0
        soft_wall = d.muscle - 20.0
        self._paint(tubes.bones, hu=d.cortex)
        self._paint(widened(tubes.bones, by_mm=-2.0), hu=d.marrow)
        self._paint(tubes.great_vessels, hu=d.blood, where=~in_lung | (self.region == _HILUM))
        self._paint(tubes.lung_vessels, hu=d.blood + 2.0, where=in_lung)
        self._paint(tubes.bronchi_wall, hu=-60.0, where=in_lung)
        self._paint(tubes.bronchi, hu=-965.0, where=in_lung)
        self._paint(tubes.oesophagus, hu=d.muscle - 12.0, where=~in_lung)
        if tubes.oesophagus_air is not None:
            self._paint(tubes.oesophagus_air, hu=-900.0, where=~in_lung)
        wall = self._paint(tubes.airway_wall, hu=soft_wall)
        self._paint(tubes.airway, hu=-990.0)
        central = wall >= 128
        self.region[central | (self.region == _HILUM)] = Label.BACKGROUND
        self.infected[central] = False

    def _paint(self, tubes: Tubes, *, hu: float, where: Array | None = None) -> Array:
        """Blend `hu` into the tubes' voxels and return their coverage (0 to 255)."""
        cover = np.zeros(self.hu.shape, dtype=np.uint8)
        draw_tubes(tubes, axes_mm=self.axes_mm, into_kji=cover, edge_mm=self.edge_mm)
        touched = np.flatnonzero(cover if where is None else cover * where)
        flat = self.hu.reshape(-1)
        flat[touched] += (np.float32(hu) - flat[touched]) * (cover.reshape(-1)[touched] / np.float32(255))
        return cover

    def scan(self) -> Array:
        """Return the finished int16 image."""
        body_z = (self.axes_mm[2] - self.anatomy.offset_mm[2]) / self.anatomy.body_to_scanner[2, 2]
        return scanned(
            self.hu,
            spacing_ijk_mm=self.geometry.spacing_ijk_mm,
            scanner=self.scanner,
            rng=self._noise_rng,
            shoulder_k=1.0 / (1.0 + np.exp(-(body_z - 88.0) / 10.0)),
        )


def _back_mm(anatomy: Anatomy) -> float:
    """Return the scanner y of the rearmost skin of the chest."""
    y = np.arange(60.0, 200.0, 1.0)
    x, z = np.meshgrid([-60.0, -30.0, 0.0, 30.0, 60.0], [-60.0, 0.0, 60.0])
    grid = anatomy.to_body(x.ravel()[:, None], y[None, :], z.ravel()[:, None])
    return float(y[(anatomy.skin(*grid) < 0).any(axis=0)].max(initial=100.0))
