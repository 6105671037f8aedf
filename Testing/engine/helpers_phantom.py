"""Small phantoms, made once, and what tests do to them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from CovidSegLib.geometry import Geometry
from CovidSegLib.phantom import Phantom, make_phantom
from CovidSegLib.volume import CTVolume

# A whole chest on few voxels: about 390 x 312 x 320 mm.
SIZE_IJK = (96, 80, 64)
SPACING_IJK_MM = (4.0, 3.9, 5.0)


@cache
def small_phantom(seed: int = 7, **options: Any) -> Phantom:
    """Return a small phantom; do not modify its arrays."""
    return make_phantom(seed=seed, **{"size_ijk": SIZE_IJK, "spacing_ijk_mm": SPACING_IJK_MM, **options})


def reordered_ct(
    ct: CTVolume, *, order: tuple[int, int, int] = (0, 1, 2), flips: tuple[bool, bool, bool] = (False, False, False)
) -> CTVolume:
    """Return the same CT, in the same place, with its array axes (k, j, i) permuted, then flipped."""
    geometry = ct.geometry
    values = reordered(ct.hu_kji, order=order, flips=flips)
    axes_ijk = [2 - axis for axis in order[::-1]]  # old grid axis of new i, j, k
    columns = geometry.direction_matrix[:, axes_ijk].copy()
    spacing = [geometry.spacing_ijk_mm[axis] for axis in axes_ijk]
    size = [geometry.size_ijk[axis] for axis in axes_ijk]
    origin = np.asarray(geometry.origin_lps_mm)
    for axis, flip in enumerate(flips[::-1]):
        if flip:
            origin = origin + columns[:, axis] * spacing[axis] * (size[axis] - 1)
            columns[:, axis] *= -1
    new = Geometry(tuple(size), tuple(spacing), tuple(origin), tuple(columns.ravel()))  # type: ignore[arg-type]
    return replace(ct, hu_kji=np.ascontiguousarray(values), geometry=new)


def reordered(array_kji: np.ndarray, *, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> np.ndarray:
    """Return an array with its axes permuted, then flipped."""
    return array_kji.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def rotated(geometry: Geometry, *, degrees: float, axis: int) -> Geometry:
    """Return the grid turned about one of the axes L, P, S through the scanner's centre."""
    angle = np.deg2rad(degrees)
    a, b = [n for n in range(3) if n != axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return replace(
        geometry,
        direction_lps=tuple((turn @ geometry.direction_matrix).ravel()),
        origin_lps_mm=tuple(turn @ np.asarray(geometry.origin_lps_mm)),
    )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice of two masks, 1 if both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2.0 * np.count_nonzero(a & b) / total if total else 1.0
