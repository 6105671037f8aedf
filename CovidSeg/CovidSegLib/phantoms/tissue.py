"""Densities of the phantom at points of the body: everything but tubes, lesions and the scanner's effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Anatomy, Array, SmoothNoise, radial_distance


@dataclass(frozen=True)
class Ellipsoid:
    """The shape of an organ, (x, y, z); the higher the power, the more of a box it is."""

    centre_mm: tuple[float, float, float]
    half_mm: tuple[float, float, float]
    power: float = 2.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Return the distance of points to the surface (mm), negative inside."""
        offsets = (at - middle for at, middle in zip((x, y, z), self.centre_mm, strict=True))
        return radial_distance(*zip(offsets, self.half_mm, strict=True), power=self.power)


# Organs below the diaphragm, in the body frame: centre and half width.
_LIVER = Ellipsoid((-55.0, -2.0, -150.0), (108.0, 92.0, 98.0), power=2.4)
_SPLEEN = Ellipsoid((92.0, 48.0, -150.0), (34.0, 46.0, 58.0))
_STOMACH = Ellipsoid((66.0, -12.0, -138.0), (44.0, 50.0, 44.0), power=2.3)
_COLON = Ellipsoid((88.0, -62.0, -132.0), (27.0, 22.0, 34.0))
_STOMACH_WALL_MM, _COLON_WALL_MM = 4.0, 2.5
# Gas lies in front of this y, as the patient lies on the back.
_STOMACH_LEVEL_MM = -14.0
# Chambers of the heart, from its centre.
_CHAMBERS = {
    "left ventricle": Ellipsoid((22.0, -2.0, -6.0), (22.0, 17.6, 22.0)),
    "right ventricle": Ellipsoid((-16.0, -16.0, -4.0), (23.0, 18.4, 23.0)),
    "left atrium": Ellipsoid((6.0, 24.0, 16.0), (20.0, 16.0, 20.0)),
    "right atrium": Ellipsoid((-30.0, 8.0, 6.0), (19.0, 15.2, 19.0)),
}
# From one rib, or vertebra, to the next; and how far ribs run down on their way to the front (mm per mm).
_RIB_SPACING_MM, _VERTEBRA_SPACING_MM, _RIB_SLOPE = 27.0, 25.0, 0.55
# Densities (HU) that are the same in all patients.
_SKIN_HU, _PERICARDIUM_HU = 25.0, 30.0
_CARTILAGE_HU, _DISC_HU, _DURAL_SAC_HU = 105.0, 85.0, 25.0
_STOMACH_WALL_HU, _STOMACH_FLUID_HU, _STOMACH_GAS_HU = 45.0, 15.0, -985.0
_COLON_WALL_HU, _COLON_GAS_HU = 40.0, -960.0


@dataclass(frozen=True)
class Densities:
    """Random densities (HU) and small findings of one patient."""

    fat: float
    muscle: float
    blood: float
    heart_wall: float
    liver: float
    marrow: float
    cortex: float
    lung: float
    gravity: float
    mottle: float
    dependent: bool
    stomach_gas: bool
    bowel_gas: bool
    fissure: float
    contrast: bool
    mosaic: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Densities:
        """Return densities drawn from `rng`; about a third of the patients have contrast agent."""
        contrast = bool(rng.random() < 0.3)
        blood = float(rng.uniform(150, 300) if contrast else rng.uniform(32, 46))
        return cls(
            fat=float(rng.uniform(-115, -95)),
            muscle=float(rng.uniform(45, 62)),
            blood=blood,
            heart_wall=float(rng.uniform(80, 120)) if contrast else blood + 6.0,
            liver=float(rng.uniform(90, 120) if contrast else rng.uniform(45, 65)),
            marrow=float(rng.uniform(110, 220)),
            cortex=float(rng.uniform(450, 750)),
            lung=float(rng.uniform(-880, -800)),
            gravity=float(rng.uniform(15, 45)),
            mottle=float(rng.uniform(8, 20)),
            dependent=bool(rng.random() < 0.35),
            stomach_gas=bool(rng.random() < 0.7),
            bowel_gas=bool(rng.random() < 0.4),
            fissure=float(rng.uniform(150, 420)),
            contrast=contrast,
            mosaic=float(rng.uniform(6, 28)),
        )


@dataclass(frozen=True)
class Points:
    """Points of the body frame (arrays of one shape), their surfaces, noise, and the soft edge's width (mm)."""

    x: Array
    y: Array
    z: Array
    skin: Array
    wall: Array
    lungs: Array
    noise: Array
    edge_mm: float

    def at(self, index: Array) -> Points:
        """Return the points of these indices."""
        x, y, z, skin = self.x[index], self.y[index], self.z[index], self.skin[index]
        return Points(x, y, z, skin, self.wall[index], self.lungs[index], self.noise[index], self.edge_mm)


def _cover(distance: Array, edge_mm: float) -> Array:
    """Return how much of a voxel lies inside a surface (0 to 1)."""
    return np.minimum(np.maximum(0.5 - distance / np.float32(edge_mm), 0), 1)


def _lay(hu: Array, value: Array | float, distance: Array, edge_mm: float) -> None:
    """Blend `value` into `hu` where `distance` is negative, in place."""
    hu += (value - hu) * _cover(distance, edge_mm)


def soft_tissue(points: Points, *, anatomy: Anatomy, densities: Densities, outside: Array) -> Array:
    """Return HU (float32) of the body around and between the lungs, with `outside` (HU) around it."""
    p, a, d = points, anatomy, densities
    hu = np.array(outside, dtype=np.float32)
    skin = p.skin
    _lay(hu, d.fat + 9.0 * p.noise, skin, p.edge_mm)
    _lay(hu, _SKIN_HU, np.abs(skin + 1.2) - 1.2, p.edge_mm)
    muscle = np.maximum(_muscle(p, a), skin + 0.5 * a.fat_mm)
    streaks = np.where(p.noise > 1.35, d.fat + 40.0, d.muscle + 6.0 * p.noise)
    _lay(hu, streaks, muscle, p.edge_mm)
    _lay(hu, d.fat, np.maximum(np.abs(p.wall - a.wall_mm * 0.72) - 0.9, np.abs(p.y) - 75.0), p.edge_mm)
    _lay(hu, d.fat + 25.0 + 28.0 * p.noise, p.wall, p.edge_mm)
    _abdomen(hu, p, a, d)
    _heart(hu, p, a, d)
    return hu


def _muscle(p: Points, a: Anatomy) -> Array:
    """Surface of the muscles: chest wall, pectorals, back, shoulders, neck, arms."""
    side = np.abs(p.x)
    muscle = p.wall - a.wall_mm
    pectoral = radial_distance((side - 78.0, 72.0), (p.y + 78.0 - 0.35 * p.z, 16.0), (p.z - 40.0, 62.0))
    back = radial_distance((side - 34.0, 32.0), (p.y - a.spine_y_mm - 36.0, 24.0))
    shoulder_z = 120.0 if a.arms_up else 78.0
    shoulder = radial_distance((side - 150.0, 46.0), (p.y - 18.0, 46.0), (p.z - shoulder_z, 62.0))
    scapular = radial_distance((side - 98.0, 62.0), (p.y - 82.0 + 0.45 * (side - 90.0), 26.0), (p.z - 45.0, 85.0))
    neck = np.maximum(radial_distance((p.x, 58.0), (p.y - 24.0, 54.0)), 100.0 - p.z)
    for part in (pectoral, back, shoulder, scapular, neck):
        muscle = np.minimum(muscle, part)
    if not a.arms_up:
        arm = radial_distance((side - a.arm_mm - 12.0, 30.0), (p.y - 24.0, 33.0))
        muscle = np.minimum(muscle, np.maximum(arm, p.z - 90.0))
    return muscle


def _abdomen(hu: Array, p: Points, a: Anatomy, d: Densities) -> None:
    below = np.maximum(p.wall + 2.0, 3.0 - a.diaphragm(p.x, p.y, p.z))
    if not (below < p.edge_mm).any():
        return
    _lay(hu, d.muscle, np.maximum(p.wall, -a.diaphragm(p.x, p.y, p.z)), p.edge_mm)
    _lay(hu, d.fat + 15.0 * p.noise, below, p.edge_mm)
    _lay(hu, d.liver + 4.0 * p.noise, np.maximum(_LIVER.distance(p.x, p.y, p.z), below), p.edge_mm)
    _lay(hu, d.liver - 4.0, np.maximum(_SPLEEN.distance(p.x, p.y, p.z), below), p.edge_mm)
    stomach = np.maximum(_STOMACH.distance(p.x, p.y, p.z), below + 1.0)
    inside = stomach + _STOMACH_WALL_MM
    _lay(hu, _STOMACH_WALL_HU, stomach, p.edge_mm)
    _lay(hu, _STOMACH_FLUID_HU + 25.0 * p.noise, inside, p.edge_mm)
    if d.stomach_gas:
        _lay(hu, _STOMACH_GAS_HU, np.maximum(inside, p.y - _STOMACH_LEVEL_MM), p.edge_mm)
    if d.bowel_gas:
        colon = np.maximum(_COLON.distance(p.x, p.y, p.z), below + 1.0)
        _lay(hu, _COLON_WALL_HU, colon, p.edge_mm)
        _lay(hu, _COLON_GAS_HU, colon + _COLON_WALL_MM, p.edge_mm)


def _heart(hu: Array, p: Points, a: Anatomy, d: Densities) -> None:
    heart = np.maximum(a.heart(p.x, p.y, p.z), p.wall + 1.0)
    chest = np.maximum(heart, a.diaphragm(p.x, p.y, p.z))
    _lay(hu, _PERICARDIUM_HU, chest, p.edge_mm)
    _lay(hu, d.fat + 20.0 + 20.0 * p.noise, chest + 1.3, p.edge_mm)
    _lay(hu, d.heart_wall, np.maximum(heart + 4.0 + 2.5 * p.noise, chest + 2.0), p.edge_mm)
    if d.contrast:
        x, y, z = p.x - a.heart_mm[0], p.y - a.heart_mm[1], p.z - a.heart_mm[2]
        for chamber in _CHAMBERS.values():
            _lay(hu, d.blood + 5.0 * p.noise, np.maximum(chamber.distance(x, y, z), heart + 10.0), p.edge_mm)


def bones(hu: Array, points: Points, *, anatomy: Anatomy, densities: Densities) -> None:
    """Draw spine, ribs, sternum and shoulder blades into `hu`, in place."""
    p, a, d = points, anatomy, densities
    marrow = d.marrow + 30.0 * p.noise
    side = np.abs(p.x)
    phase = np.mod(p.z - _RIB_SLOPE * p.y + a.rib_phase, _RIB_SPACING_MM) - _RIB_SPACING_MM / 2
    rib = radial_distance((phase, 7.0), (p.wall - 6.0, 4.0))
    rib = np.maximum(rib, np.maximum(16.0 - side, p.z - 0.15 * p.y - 116.0))
    # At the front ribs are cartilage.
    bony, cartilage = np.maximum(rib, -60.0 - p.y - 0.1 * side), np.maximum(rib, p.y + 58.0 + 0.1 * side)
    _lay(hu, d.cortex, bony, p.edge_mm)
    _lay(hu, marrow, bony + 1.8, p.edge_mm)
    _lay(hu, _CARTILAGE_HU, cartilage, p.edge_mm)
    sternum = np.maximum(np.maximum(side - 17.0, np.abs(p.wall - 8.0) - 5.0), np.maximum(np.abs(p.z) - 78.0, p.y))
    _lay(hu, d.cortex * 0.7, sternum, p.edge_mm)
    _lay(hu, marrow * 0.7, sternum + 1.6, p.edge_mm)
    if not (p.y > 30.0).any():
        return
    tilt = (p.y - 88.0 + 0.55 * (side - 95.0)) * 0.87
    blade = np.maximum(np.abs(tilt + 4.0 * np.sin(side / 14.0)) - 2.6, np.abs(side - 98.0) - 40.0 + 0.25 * (60.0 - p.z))
    blade = np.maximum(np.maximum(blade, np.abs(p.z - 42.0) - 72.0), 13.0 - p.wall)
    _lay(hu, d.cortex * 0.8, blade, p.edge_mm)
    _spine(hu, p, a, d)


def _spine(hu: Array, p: Points, a: Anatomy, d: Densities) -> None:
    marrow = d.marrow + 30.0 * p.noise
    y = p.y - a.spine_y_mm
    body = radial_distance((p.x, 18.0), (y, 15.0), power=2.6)
    disc = np.abs(np.mod(p.z + a.rib_phase, _VERTEBRA_SPACING_MM) - _VERTEBRA_SPACING_MM / 2) - 10.0
    _lay(hu, _DISC_HU, body, p.edge_mm)
    _lay(hu, d.cortex * 0.75, np.maximum(body, disc), p.edge_mm)
    _lay(hu, marrow, np.maximum(body + 1.6, disc + 1.4), p.edge_mm)
    arch = np.abs(radial_distance((p.x, 15.0), (y - 25.0, 13.0))) - 3.4
    level = disc + 2.0
    slant = 0.2 * (np.mod(p.z, _VERTEBRA_SPACING_MM) - _VERTEBRA_SPACING_MM / 2)
    process = np.maximum(np.abs(p.x) - 3.0, np.abs(y - 44.0 - slant) - 16.0)
    transverse = np.maximum(np.abs(np.abs(p.x) - 26.0) - 15.0, np.abs(y - 20.0) - 5.0)
    posterior = np.minimum(arch, np.maximum(np.minimum(process, transverse), level))
    _lay(hu, d.cortex * 0.8, posterior, p.edge_mm)
    _lay(hu, marrow * 1.3, posterior + 2.0, p.edge_mm)
    _lay(hu, _DURAL_SAC_HU, radial_distance((p.x, 9.0), (y - 25.0, 8.0)), p.edge_mm)


def parenchyma(points: Points, *, anatomy: Anatomy, densities: Densities, coarse: SmoothNoise) -> Array:
    """Return HU of healthy lung (float32): denser at the back, mottled, with fissures."""
    p, a, d = points, anatomy, densities
    hu = d.lung + d.gravity * np.clip(p.y / 80.0, -1.2, 1.2) + d.mosaic * coarse(p.x, p.y, p.z) + d.mottle * p.noise
    # Dependent lung just inside the pleura at the back is dense without being ill.
    strength = 260.0 if d.dependent else 60.0
    hu = hu + strength * np.exp(p.lungs / 4.0) * np.clip((p.y - 45.0) / 30.0, 0.0, 1.0)
    fissure = np.clip(1.0 - a.fissures(p.x, p.y, p.z) / max(1.1, 0.9 * p.edge_mm), 0.0, 1.0)
    hu = hu + d.fissure * min(1.0, 1.4 / p.edge_mm) * fissure * (p.noise > -1.2)
    return np.asarray(hu, dtype=np.float32)
