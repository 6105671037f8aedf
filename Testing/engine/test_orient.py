"""Views along the patient's axes, for every storage order, and obliques."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from CovidSegLib.geometry import Geometry
from CovidSegLib.orient import Orientation

ALL_48 = [(order, signs) for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)]
SPACING_LPS_MM = (0.7, 0.8, 2.5)
SIZE_LPS = (5, 6, 7)


def stored(order: tuple[int, ...], signs: tuple[float, ...]) -> tuple[Geometry, np.ndarray]:
    """Return a grid whose axis n runs along patient axis order[n] (0 = L), and each voxel's (S, P, L) position."""
    direction = np.zeros((3, 3))
    for axis, (patient, sign) in enumerate(zip(order, signs, strict=True)):
        direction[patient, axis] = sign
    geometry = Geometry(
        size_ijk=tuple(SIZE_LPS[p] for p in order),  # type: ignore[arg-type]
        spacing_ijk_mm=tuple(SPACING_LPS_MM[p] for p in order),  # type: ignore[arg-type]
        origin_lps_mm=(3.0, -4.0, 5.0),
        direction_lps=tuple(direction.ravel()),
    )
    k, j, i = np.indices(geometry.shape_kji)
    points = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ geometry.ijk_to_lps.T
    return geometry, points[..., 2::-1]


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_every_storage_order_is_viewed_to_head_back_and_left(order: tuple[int, ...], signs: tuple[float, ...]) -> None:
    geometry, spl_mm = stored(order, signs)
    orientation = Orientation.of(geometry)
    spacing = orientation.spacing_mm(geometry)
    assert spacing == pytest.approx(SPACING_LPS_MM[::-1])
    for axis in range(3):
        coordinate = orientation.view(np.ascontiguousarray(spl_mm[..., axis]))
        assert coordinate.shape == SIZE_LPS[::-1]
        steps = [np.diff(coordinate, axis=n) for n in range(3)]
        assert np.allclose(steps[axis], spacing[axis])
        assert all(np.allclose(steps[n], 0.0) for n in range(3) if n != axis)


def test_view_shares_memory_so_that_writing_into_it_is_the_way_back() -> None:
    geometry, _ = stored((2, 0, 1), (-1.0, 1.0, -1.0))
    array = np.zeros(geometry.shape_kji, np.uint8)
    view = Orientation.of(geometry).view(array)
    assert np.shares_memory(view, array)
    view[0, 0, 0] = 7
    assert array.sum() == 7 and np.argwhere(array).tolist() != [[0, 0, 0]]


def rotation(degrees: float, *, axis: int) -> np.ndarray:
    a, b = [n for n in range(3) if n != axis]
    turn, angle = np.eye(3), np.deg2rad(degrees)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return turn


def turned(direction: np.ndarray) -> Geometry:
    return Geometry((4, 5, 6), (1.0, 2.0, 3.0), direction_lps=tuple(direction.ravel()))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_oblique_of_44_degrees_keeps_its_axes_and_of_46_takes_the_next(axis: int) -> None:
    straight = Orientation.of(turned(np.eye(3)))
    assert Orientation.of(turned(rotation(44.0, axis=axis))) == straight
    assert Orientation.of(turned(rotation(46.0, axis=axis))) != straight


@pytest.mark.parametrize("seed", range(30))
def test_any_direction_uses_each_axis_once_and_points_forward(seed: int) -> None:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    orientation = Orientation.of(turned(matrix))
    assert sorted(orientation.order) == [0, 1, 2]
    # The cosine between each view axis and its patient axis is not negative.
    for row, (axis, flip) in enumerate(zip(orientation.order, orientation.flipped, strict=True)):
        assert matrix[2 - row, 2 - axis] * (-1 if flip else 1) >= 0


def test_two_axes_at_45_degrees_resolve_without_a_tie() -> None:
    orientation = Orientation.of(turned(rotation(45.0, axis=2) @ rotation(45.0, axis=0)))
    assert sorted(orientation.order) == [0, 1, 2]
