"""The phantom's great vessels, airways, oesophagus, clavicles and arm bones, and the trees inside its lungs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from .anatomy import MIDLINE_MM, Anatomy, Array
from .tubes import Tubes, grow_tree, joined, polyline, widened

Point: TypeAlias = tuple[float, float, float]

# Courses in the body frame (mm); the aorta's width is the patient's.
_AORTA: list[Point] = [
    *((2, -16, -45), (-9, -26, -12), (-9, -20, 18)),  # ascending
    *((14, 2, 34), (22, 30, 28), (22, 42, 0)),  # arch
    *((20, 44, -100), (6, 46, -220)),  # descending
]
# Courses of the other vessels, with their radius, or that at each point.
_GREAT_VESSELS: dict[str, tuple[list[Point], float | list[float]]] = {
    "superior vena cava": ([(-22, -8, 78), (-22, -12, 20), (-22, -6, -40)], 8.0),
    "inferior vena cava": ([(-14, 4, -70), (-16, 10, -110), (-14, 20, -220)], 12.0),
    "pulmonary trunk": ([(14, -40, -40), (18, -20, -8), (10, -4, -4)], 12.0),
    "right pulmonary artery": ([(14, -10, -6), (-10, -2, -10), (-36, 6, -10)], [10.0, 9.0, 7.0]),
    "left pulmonary artery": ([(16, -10, -4), (30, 4, 0), (36, 16, -6)], [11.0, 9.0, 7.0]),
    "right pulmonary veins": ([(-6, 8, -34), (-30, 8, -28)], 7.0),
    "left pulmonary veins": ([(10, 12, -34), (34, 10, -28)], 7.0),
    "brachiocephalic trunk": ([(6, -6, 38), (-12, -4, 66), (-26, 4, 140)], 5.5),
    "left carotid artery": ([(14, 2, 40), (18, 2, 80), (24, 6, 150)], 4.0),
    "left subclavian artery": ([(20, 14, 38), (28, 20, 84), (62, 6, 116)], 4.5),
    "left brachiocephalic vein": ([(-22, -10, 74), (6, -20, 62), (50, -12, 110)], 6.0),
    "right brachiocephalic vein": ([(-22, -10, 74), (-40, -14, 100), (-70, -12, 112)], 6.0),
}
_OESOPHAGUS: list[Point] = [(2, 30, 190), (2, 33, 80), (5, 34, 0), (9, 34, -70), (16, 28, -112)]
# Bones of the left side; where the arm hangs down, the humerus ends at the elbow, whose place is the patient's.
_CLAVICLE: list[Point] = [(20, -68, 70), (80, -48, 102), (142, 4, 112)]
_RAISED_HUMERUS: list[Point] = [(150, 14, 118), (158, 12, 134), (175, 6, 260)]
_HANGING_SHOULDER: list[Point] = [(152, 16, 92), (164, 18, 80)]
_HUMERUS_RADIUS_MM: list[float] = [20, 17, 11]


@dataclass(frozen=True)
class TubularAnatomy:
    """All tubes of one patient, scanner frame (mm).

    Attributes:
        bones: Clavicles and arms.
        great_vessels: Aorta, caval veins, pulmonary trunk and their large branches.
        lung_vessels: Trees of arteries and veins.
        airway: Lumen of trachea and main bronchi.
        airway_wall: The same, outer surface.
        bronchi: Lumen of the bronchial trees.
        bronchi_wall: The same, outer surface.
        oesophagus: Outer surface.
        oesophagus_air: Lumen, or None where it is collapsed.
    """

    bones: Tubes
    great_vessels: Tubes
    lung_vessels: Tubes
    airway: Tubes
    airway_wall: Tubes
    bronchi: Tubes
    bronchi_wall: Tubes
    oesophagus: Tubes
    oesophagus_air: Tubes | None

    @classmethod
    def random(cls, rng: np.random.Generator, *, anatomy: Anatomy, lung_points_mm: Array) -> TubularAnatomy:
        """Return tubes for a patient, trees reaching random ones of `lung_points_mm` ((n, 3), body frame)."""
        airway, roots = _airway(rng)
        depth = anatomy.lungs(*lung_points_mm.T.astype(np.float32))[0]
        vessels, bronchi = [], []
        for side, root in ((-1, roots[0]), (1, roots[1])):
            inside = lung_points_mm[((lung_points_mm[:, 0] - MIDLINE_MM) * side > 0) & (depth < -4.0)]
            deep = lung_points_mm[((lung_points_mm[:, 0] - MIDLINE_MM) * side > 0) & (depth < -13.0)]
            artery = np.array([side * 32.0, 6.0, -8.0]) + rng.normal(0, 2, 3)
            vein = np.array([side * 28.0, 6.0, -30.0]) + rng.normal(0, 2, 3)
            vessels.append(_tree(rng, artery, inside, count=int(rng.integers(450, 560)), radius=(8.0, 0.65)))
            vessels.append(_tree(rng, vein, inside, count=int(rng.integers(280, 360)), radius=(7.0, 0.65)))
            bronchi.append(_tree(rng, root, deep, count=int(rng.integers(70, 110)), radius=(4.6, 0.75)))
        air = joined(*bronchi)
        oesophagus = polyline(_OESOPHAGUS, radius_mm=7.0)
        body = cls(
            bones=_limb_bones(anatomy),
            great_vessels=_great_vessels(rng),
            lung_vessels=joined(*vessels),
            airway=airway,
            airway_wall=widened(airway, by_mm=1.5),
            bronchi=air,
            bronchi_wall=widened(air, by_mm=0.25, share=0.22),
            oesophagus=oesophagus,
            oesophagus_air=widened(oesophagus, by_mm=-float(rng.uniform(3, 5))) if rng.random() < 0.4 else None,
        )
        in_scanner = {name: _in_scanner(tubes, anatomy) for name, tubes in vars(body).items() if tubes is not None}
        return replace(body, **in_scanner)


def _tree(rng: np.random.Generator, root: Array, points: Array, *, count: int, radius: tuple[float, float]) -> Tubes:
    targets = points[rng.choice(len(points), size=count, replace=False)]
    return grow_tree(rng, root_mm=root, targets_mm=targets, root_radius_mm=radius[0], tip_radius_mm=radius[1])


def _airway(rng: np.random.Generator) -> tuple[Tubes, tuple[Array, Array]]:
    """Return trachea and main bronchi, and where they enter the right and the left lung."""
    carina = np.array([-2.0, 17.0, 10.0]) + rng.normal(0, 2, 3)
    right = carina + np.array([-36.0, 2.0, -24.0]) + rng.normal(0, 1.5, 3)
    left = carina + np.array([42.0, 5.0, -30.0]) + rng.normal(0, 1.5, 3)
    above, bend_up = carina + np.array([-3.0, -2.0, 22.0]), np.array([0.0, 0.0, 4.0])
    width = float(rng.uniform(7.5, 9.5))
    trachea = polyline([(0, 2, 200), (0, 8, 90), tuple(above), tuple(carina)], radius_mm=width)
    parts = [trachea]
    for end, share in ((right, 0.8), (left, 0.72)):
        bend = 0.5 * (carina + end) + 0.5 * bend_up
        parts.append(polyline([tuple(carina + bend_up), tuple(bend), tuple(end)], radius_mm=[width, share * width, 5]))
    return joined(*parts), (right, left)


def _great_vessels(rng: np.random.Generator) -> Tubes:
    width = float(rng.uniform(11.5, 14.5))
    aorta = polyline(_AORTA, radius_mm=[width + 1] * 3 + [width] * 3 + [width - 2] * 2)
    return joined(aorta, *(polyline(points, radius_mm=radius) for points, radius in _GREAT_VESSELS.values()))


def _limb_bones(anatomy: Anatomy) -> Tubes:
    parts = []
    for side in (-1, 1):
        parts.append(polyline(_on(side, _CLAVICLE), radius_mm=5.5))
        if anatomy.arms_up:
            parts.append(polyline(_on(side, _RAISED_HUMERUS), radius_mm=_HUMERUS_RADIUS_MM))
        else:
            elbow = (anatomy.arm_mm + 12, 24, -20)
            parts.append(polyline(_on(side, [*_HANGING_SHOULDER, elbow]), radius_mm=_HUMERUS_RADIUS_MM))
            parts.append(polyline(_on(side, [elbow, (elbow[0], 24, -300)]), radius_mm=11.0))
    return joined(*parts)


def _on(side: int, points: list[Point]) -> list[Point]:
    """Return points of the left side on this one: 1 left, -1 right."""
    return [(side * x, y, z) for x, y, z in points]


def _in_scanner(tubes: Tubes, anatomy: Anatomy) -> Tubes:
    ends = [anatomy.to_scanner(points) for points in (tubes.start_mm, tubes.end_mm)]
    return Tubes(ends[0], ends[1], tubes.start_radius_mm * anatomy.size, tubes.end_radius_mm * anatomy.size)
