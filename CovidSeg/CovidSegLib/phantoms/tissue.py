"""Densities of the phantom at points of the body: everything but tubes, lesions and the scanner's effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Anatomy, Array, SmoothNoise, radial_distance


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
    _lay(hu, 25.0, np.abs(skin + 1.2) - 1.2, p.edge_mm)
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
    liver = radial_distance((p.x + 55.0, 108.0), (p.y + 2.0, 92.0), (p.z + 150.0, 98.0), power=2.4)
    _lay(hu, d.liver + 4.0 * p.noise, np.maximum(liver, below), p.edge_mm)
    spleen = radial_distance((p.x - 92.0, 34.0), (p.y - 48.0, 46.0), (p.z + 150.0, 58.0))
    _lay(hu, d.liver - 4.0, np.maximum(spleen, below), p.edge_mm)
    stomach = radial_distance((p.x - 66.0, 44.0), (p.y + 12.0, 50.0), (p.z + 138.0, 44.0), power=2.3)
    stomach = np.maximum(stomach, below + 1.0)
    _lay(hu, 45.0, stomach, p.edge_mm)
    _lay(hu, 15.0 + 25.0 * p.noise, stomach + 4.0, p.edge_mm)
    if d.stomach_gas:
        _lay(hu, -985.0, np.maximum(stomach + 4.0, p.y + 14.0), p.edge_mm)
    if d.bowel_gas:
        colon = radial_distance((p.x - 88.0, 27.0), (p.y + 62.0, 22.0), (p.z + 132.0, 34.0))
        colon = np.maximum(colon, below + 1.0)
        _lay(hu, 40.0, colon, p.edge_mm)
        _lay(hu, -960.0, colon + 2.5, p.edge_mm)


def _heart(hu: Array, p: Points, a: Anatomy, d: Densities) -> None:
    heart = np.maximum(a.heart(p.x, p.y, p.z), p.wall + 1.0)
    chest = np.maximum(heart, a.diaphragm(p.x, p.y, p.z))
    _lay(hu, 30.0, chest, p.edge_mm)
    _lay(hu, d.fat + 20.0 + 20.0 * p.noise, chest + 1.3, p.edge_mm)
    _lay(hu, d.heart_wall, np.maximum(heart + 4.0 + 2.5 * p.noise, chest + 2.0), p.edge_mm)
    if d.contrast:
        x, y, z = p.x - a.heart_mm[0], p.y - a.heart_mm[1], p.z - a.heart_mm[2]
        for centre, half in (((22, -2, -6), 22.0), ((-16, -16, -4), 23.0), ((6, 24, 16), 20.0), ((-30, 8, 6), 19.0)):
            chamber = radial_distance((x - centre[0], half), (y - centre[1], half * 0.8), (z - centre[2], half))
            _lay(hu, d.blood + 5.0 * p.noise, np.maximum(chamber, heart + 10.0), p.edge_mm)


def bones(hu: Array, points: Points, *, anatomy: Anatomy, densities: Densities) -> None:
    """Draw spine, ribs, sternum and shoulder blades into `hu`, in place."""
    p, a, d = points, anatomy, densities
    marrow = d.marrow + 30.0 * p.noise
    side = np.abs(p.x)
    # Ribs run down to the front; from there on they are cartilage.
    rib_phase = np.mod(p.z - 0.55 * p.y + a.rib_phase, 27.0) - 13.5
    rib = radial_distance((rib_phase, 7.0), (p.wall - 6.0, 4.0))
    rib = np.maximum(rib, np.maximum(16.0 - side, p.z - 0.15 * p.y - 116.0))
    cartilage = np.maximum(rib, p.y + 58.0 + 0.1 * side)
    _lay(hu, d.cortex, np.maximum(rib, -60.0 - p.y - 0.1 * side), p.edge_mm)
    _lay(hu, marrow, np.maximum(rib, -60.0 - p.y - 0.1 * side) + 1.8, p.edge_mm)
    _lay(hu, 105.0, cartilage, p.edge_mm)
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
    disc = np.abs(np.mod(p.z + a.rib_phase, 25.0) - 12.5) - 10.0
    _lay(hu, 85.0, body, p.edge_mm)
    _lay(hu, d.cortex * 0.75, np.maximum(body, disc), p.edge_mm)
    _lay(hu, marrow, np.maximum(body + 1.6, disc + 1.4), p.edge_mm)
    arch = np.abs(radial_distance((p.x, 15.0), (y - 25.0, 13.0))) - 3.4
    level = disc + 2.0
    process = np.maximum(np.abs(p.x) - 3.0, np.abs(y - 44.0 - 0.2 * (np.mod(p.z, 25.0) - 12.5)) - 16.0)
    transverse = np.maximum(np.abs(np.abs(p.x) - 26.0) - 15.0, np.abs(y - 20.0) - 5.0)
    posterior = np.minimum(arch, np.maximum(np.minimum(process, transverse), level))
    _lay(hu, d.cortex * 0.8, posterior, p.edge_mm)
    _lay(hu, marrow * 1.3, posterior + 2.0, p.edge_mm)
    _lay(hu, 25.0, radial_distance((p.x, 9.0), (y - 25.0, 8.0)), p.edge_mm)


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
