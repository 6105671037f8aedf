"""The phantom's body: random proportions, and smooth implicit surfaces (negative inside, roughly in mm).

Body frame: x to the patient's left, y to the back, z to the head, origin between the lungs, in mm of a
standard adult. Leaves out what is drawn with these surfaces (`tissue`) and everything tubular.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray

# The lungs meet left of the middle, as the heart takes room from the left one.
MIDLINE_MM = 5.0
HILA_MM = 3.0
# Inner chest wall along z: half width, half depth, and centre in y, as in a standing atlas (mm).
_WALL_Z = (-260.0, -150.0, -110.0, -60.0, -10.0, 40.0, 75.0, 95.0, 108.0, 116.0, 121.0, 126.0)
_WALL_HALF_X = (128.0, 133.0, 135.0, 131.0, 123.0, 106.0, 86.0, 68.0, 50.0, 34.0, 18.0, 4.0)
_WALL_HALF_Y = (92.0, 95.0, 96.0, 94.0, 88.0, 77.0, 63.0, 50.0, 37.0, 25.0, 13.0, 4.0)
_WALL_Y = (0.0, 0.0, 0.0, 2.0, 4.0, 9.0, 15.0, 20.0, 23.0, 25.0, 26.0, 26.0)
# Skin over the inner chest wall (mm), without subcutaneous fat.
_SKIN_Z = (-260.0, -120.0, -20.0, 40.0, 80.0, 110.0, 130.0, 150.0, 170.0, 200.0)
_SKIN_HALF_X = (150.0, 152.0, 156.0, 168.0, 178.0, 176.0, 150.0, 95.0, 62.0, 56.0)
_SKIN_HALF_Y = (108.0, 112.0, 110.0, 104.0, 92.0, 80.0, 72.0, 66.0, 60.0, 58.0)
_SKIN_Y = (2.0, 2.0, 6.0, 14.0, 20.0, 24.0, 24.0, 20.0, 16.0, 14.0)


class SmoothNoise:
    """Isotropic smooth random field of unit variance over space, periodic far beyond a body."""

    def __init__(self, rng: np.random.Generator, *, feature_mm: float) -> None:
        from scipy.ndimage import gaussian_filter

        lattice = gaussian_filter(rng.standard_normal((40, 40, 40)), 1.6, mode="wrap")
        self._lattice = ((lattice - lattice.mean()) / lattice.std()).astype(np.float32)
        self._per_mm = 3.2 / feature_mm

    def __call__(self, x: Array, y: Array, z: Array) -> Array:
        """Return float32 values at points in mm, any (broadcast) shape."""
        from scipy.ndimage import map_coordinates

        points = np.stack(np.broadcast_arrays(z, y, x)).astype(np.float32) * np.float32(self._per_mm)
        return map_coordinates(self._lattice, points, order=1, mode="grid-wrap", output=np.float32)


def radial_distance(*offsets_and_radii: tuple[Array, Array | float], power: float = 2.0) -> Array:
    """Return the distance along the ray from the centre to a superellipsoid, negative inside, in mm."""
    radius2: Array | float = 0.0
    rho: Array | float = 0.0
    for offset, half in offsets_and_radii:
        radius2 = radius2 + offset * offset
        ratio = np.abs(offset / half)
        rho = rho + (ratio * ratio if power == 2.0 else ratio**power)
    rho = np.maximum(np.asarray(rho), np.float32(1e-4)) ** np.float32(1.0 / power)
    return np.sqrt(radius2) * (1.0 - 1.0 / rho) - (rho < 0.02) * np.float32(5.0)


def smooth_union(first: Array, second: Array, *, blend_mm: float) -> Array:
    """Return the surface around both shapes, with a fillet of about `blend_mm`."""
    overlap = np.clip(0.5 + 0.5 * (second - first) / blend_mm, 0.0, 1.0)
    return second + (first - second) * overlap - blend_mm * overlap * (1.0 - overlap)


def smooth_intersection(first: Array, second: Array, *, blend_mm: float) -> Array:
    """Return the surface of what lies in both shapes, with its edges rounded by about `blend_mm`."""
    return -smooth_union(-first, -second, blend_mm=blend_mm)


def table_along(values: Array, at: tuple[float, ...], numbers: tuple[float, ...]) -> Array:
    """Return `numbers` interpolated over `at`, as float32."""
    return np.interp(values, at, numbers).astype(np.float32)


@dataclass(frozen=True)
class Anatomy:
    """Proportions of one random patient (mm in the body frame), and how the patient lies in the scanner.

    Attributes:
        body_to_scanner: (3, 3) rotation times size; scanner point = matrix @ body point + offset.
        offset_mm: Scanner position of the body's origin.
    """

    body_to_scanner: Array
    offset_mm: Array
    fat_mm: float
    wall_mm: float
    roundness: float
    heart_mm: tuple[float, float, float]
    heart_half_mm: tuple[float, float, float]
    heart_turn: float
    dome_right_mm: float
    dome_left_mm: float
    spine_y_mm: float
    mediastinum: float
    fissure_mm: tuple[float, float, float]
    rib_phase: float
    arms_up: bool
    arm_mm: float
    warp_wave: Array = field(repr=False)
    warp_phase: Array = field(repr=False)
    warp_mm: Array = field(repr=False)

    @classmethod
    def random(cls, rng: np.random.Generator) -> Anatomy:
        """Return a patient drawn from `rng`."""
        size = rng.uniform(0.93, 1.06) * rng.uniform((0.95, 0.94, 0.92), (1.05, 1.06, 1.06))
        turn = np.deg2rad(rng.normal(0.0, (1.5, 1.5, 3.0)).clip(-6, 6))
        return cls(
            body_to_scanner=_rotation(turn) @ np.diag(size),
            offset_mm=rng.normal(0.0, (5.0, 5.0, 6.0)),
            fat_mm=float(rng.uniform(5.0, 28.0)),
            wall_mm=float(rng.uniform(15.0, 24.0)),
            roundness=float(rng.uniform(2.1, 2.6)),
            heart_mm=(float(rng.uniform(25, 35)), float(rng.uniform(-34, -24)), float(rng.uniform(-72, -60))),
            heart_half_mm=(float(rng.uniform(54, 66)), float(rng.uniform(38, 47)), float(rng.uniform(44, 54))),
            heart_turn=float(rng.uniform(0.4, 0.75)),
            dome_right_mm=float(rng.uniform(-78, -58)),
            dome_left_mm=float(rng.uniform(-92, -72)),
            spine_y_mm=float(rng.uniform(66, 72)),
            mediastinum=float(rng.uniform(0.85, 1.2)),
            fissure_mm=(float(rng.uniform(-46, -26)), float(rng.uniform(-42, -22)), float(rng.uniform(-32, -16))),
            rib_phase=float(rng.uniform(0, 27)),
            arms_up=bool(rng.random() < 0.7),
            arm_mm=float(rng.uniform(188, 205)),
            warp_wave=rng.uniform(-1, 1, (3, 3)) * 2 * np.pi / 150.0,
            warp_phase=rng.uniform(0, 2 * np.pi, 3),
            warp_mm=rng.uniform(1.0, 3.5, 3),
        )

    def to_body(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Return body coordinates of scanner points (LPS mm; broadcastable), float32 of the full shape."""
        inverse = np.linalg.inv(self.body_to_scanner).astype(np.float32)
        from_origin = [np.asarray(v - o, dtype=np.float32) for v, o in zip((x, y, z), self.offset_mm, strict=True)]
        straight = [row[0] * from_origin[0] + row[1] * from_origin[1] + row[2] * from_origin[2] for row in inverse]
        return self._warped(straight, sign=1.0)

    def to_scanner(self, points: Array) -> Array:
        """Return scanner points (n, 3) of body points (n, 3), to first order in the irregular warp."""
        straight = np.stack(self._warped([points[:, n] for n in range(3)], sign=-1.0), axis=1)
        return np.asarray(straight @ self.body_to_scanner.T + self.offset_mm)

    @property
    def size(self) -> float:
        """Mean length in the scanner of one millimetre of the body frame."""
        return float(np.cbrt(np.linalg.det(self.body_to_scanner)))

    def _warped(self, points: list[Array], *, sign: float) -> tuple[Array, Array, Array]:
        moved = []
        for axis in range(3):
            wave = self.warp_wave[axis].astype(np.float32)
            angle = points[0] * wave[0] + points[1] * wave[1] + points[2] * wave[2]
            bend = np.sin(angle + np.float32(self.warp_phase[axis])) * np.float32(sign * self.warp_mm[axis])
            moved.append(points[axis] + bend)
        return moved[0], moved[1], moved[2]

    def chest_wall(self, x: Array, y: Array, z: Array) -> Array:
        """Inner surface of the rib cage, closed above the lungs' apices, open below."""
        centre_y = table_along(z, _WALL_Z, _WALL_Y)
        half_x, half_y = table_along(z, _WALL_Z, _WALL_HALF_X), table_along(z, _WALL_Z, _WALL_HALF_Y)
        return radial_distance((x, half_x), (y - centre_y, half_y), power=self.roundness)

    def skin(self, x: Array, y: Array, z: Array) -> Array:
        """Outer surface of trunk, neck, shoulders and arms."""
        extra = np.float32(self.fat_mm + 0.5 * self.wall_mm - 10.0)
        neck = np.clip((170.0 - z) / 60.0, 0.1, 1.0).astype(np.float32)
        half_x = table_along(z, _SKIN_Z, _SKIN_HALF_X) + extra * neck
        half_y = table_along(z, _SKIN_Z, _SKIN_HALF_Y) + extra * neck
        skin = radial_distance((x, half_x), (y - table_along(z, _SKIN_Z, _SKIN_Y), half_y), power=2.5)
        side = np.abs(x)
        if self.arms_up:
            shoulder = radial_distance((side - 158.0, 52.0), (y - 14.0, 50.0), (z - 128.0, 62.0))
            return np.minimum(skin, shoulder)
        arm_fat = 0.4 * self.fat_mm
        arm = radial_distance((side - self.arm_mm - 12.0, 38.0 + arm_fat), (y - 24.0, 42.0 + arm_fat))
        shoulder = radial_distance((side - 160.0, 62.0), (y - 18.0, 56.0), (z - 78.0, 58.0))
        return np.minimum(np.minimum(skin, np.maximum(arm, z - 95.0)), shoulder)

    def diaphragm(self, x: Array, y: Array, z: Array) -> Array:
        """Surface between chest and abdomen: negative above it (in the chest)."""
        right = self.dome_right_mm - 52.0 * ((x + 62.0) / 74.0) ** 2
        left = self.dome_left_mm - 52.0 * ((x - 66.0) / 74.0) ** 2
        dome = -smooth_union(-right, -left, blend_mm=14.0)
        dome = np.maximum(dome, self.dome_left_mm - 60.0)
        fall = np.where(y > -12.0, 58.0 * ((y + 12.0) / 100.0) ** 2, 34.0 * ((y + 12.0) / 80.0) ** 2)
        return (dome - fall - z) * np.float32(0.72)

    def heart(self, x: Array, y: Array, z: Array) -> Array:
        """Surface of the pericardium."""
        cos, sin = np.cos(self.heart_turn), np.sin(self.heart_turn)
        dx, dy, dz = x - self.heart_mm[0], y - self.heart_mm[1], z - self.heart_mm[2]
        u, v = cos * dx - sin * dy * 0.9, sin * dx + cos * dy
        tilted = dz + 0.28 * u
        half = self.heart_half_mm
        return radial_distance((u, half[0]), (v, half[1]), (tilted, half[2]), power=2.2)

    def mediastinal_space(self, x: Array, y: Array, z: Array) -> Array:
        """Surface of what lies between the lungs: vessels, heart, spine, hila."""
        width = table_along(z, (-150, -70, -20, 10, 40, 80, 110), (27, 26, 25, 27, 27, 26, 34)) * self.mediastinum
        width = width * table_along(y, (-100, -72, -45, -10, 30, 60), (0.75, 0.42, 0.9, 1.0, 0.85, 0.8))
        space = np.abs(x - MIDLINE_MM) - width
        space = smooth_union(space, self.heart(x, y, z) - 2.0, blend_mm=10.0)
        spine = np.sqrt(x * x + (y - self.spine_y_mm - 2.0) ** 2) - 25.0
        space = smooth_union(space, spine, blend_mm=8.0)
        aorta = np.sqrt((x - 21.0) ** 2 + (y - 42.0) ** 2 + np.maximum(z - 26.0, 0.0) ** 2) - 15.5
        space = smooth_union(space, aorta, blend_mm=6.0)
        hilum = radial_distance((np.abs(x - HILA_MM) - 34.0, 17.0), (y - 12.0, 17.0), (z + 14.0, 24.0))
        return smooth_union(space, hilum, blend_mm=9.0)

    def lungs(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Surfaces of both pleural cavities together, and the chest wall that bounds them."""
        wall = self.chest_wall(x, y, z)
        cavity = smooth_intersection(wall, self.diaphragm(x, y, z), blend_mm=4.0)
        return smooth_intersection(cavity, -self.mediastinal_space(x, y, z), blend_mm=5.0), wall

    def fissures(self, x: Array, y: Array, z: Array) -> Array:
        """Distance (>= 0) to the nearest fissure: oblique ones on both sides, the horizontal one right."""
        right = x < 0
        height = np.where(right, self.fissure_mm[0], self.fissure_mm[1]).astype(np.float32)
        oblique = (z - height - 1.07 * y - 0.0012 * y * y - 6.0 * np.sin(x / 35.0)) / 1.46
        horizontal = np.abs(z - self.fissure_mm[2] - 0.12 * (y + 40.0) + 5.0 * np.sin(x / 30.0))
        return np.minimum(np.abs(oblique), np.where(right & (oblique > 0), horizontal, np.float32(99.0)))


def _rotation(turn: Array) -> Array:
    """Return the (3, 3) rotation by angles (radians) about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(turn):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ step
    return matrix
