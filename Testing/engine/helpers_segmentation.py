"""A small labelmap on grids of every kind, for the tests of segmentation files."""

from __future__ import annotations

import math

import numpy as np
import pytest
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.results.segment_masks import SegmentMasks

L, R, INF = Label.LEFT_LUNG, Label.RIGHT_LUNG, Label.INFECTION


def turned(flip: tuple[float, float, float]) -> tuple[float, ...]:
    """A direction turned about all axes, with axes flipped."""
    a, b = 0.3, -0.2
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return tuple(float(v) for v in (about_z @ about_x @ np.diag(flip)).ravel())


SIZE_IJK = (14, 11, 9)
SPACING_MM, ORIGIN_MM = (0.7, 1.3, 2.9), (-11.125, 33.5, 401.75)
GEOMETRIES = {
    "straight": Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM),
    "oblique": Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM, turned((1, 1, 1))),
    "oblique-flipped": Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM, turned((-1, 1, -1))),
    "left-handed": Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM, turned((1, -1, 1))),
    "axes-swapped": Geometry(SIZE_IJK, SPACING_MM, ORIGIN_MM, (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
}
any_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def make_labelmap() -> np.ndarray:
    """Two lungs that are no mirror images of each other, infection in both, a voxel of it at the grid's corner."""
    labelmap = np.zeros(SIZE_IJK[::-1], dtype=np.uint8)
    labelmap[2:8, 2:9, 1:5], labelmap[2:7, 2:9, 8:13] = R, L
    labelmap[3:5, 3:6, 2:4] = labelmap[4:6, 3:5, 9:12] = INF
    labelmap[8, 10, 13] = INF
    return labelmap


def assert_same_masks(found: SegmentMasks, expected: SegmentMasks) -> None:
    np.testing.assert_array_equal(found.left_kji, expected.left_kji)
    np.testing.assert_array_equal(found.right_kji, expected.right_kji)
    np.testing.assert_array_equal(found.infection_kji, expected.infection_kji)
