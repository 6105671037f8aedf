"""Gas in stomach and bowel below the lungs: as dark as air, and easily taken for lung.

Lung, emphysema too, is crossed by vessels and passes gradually into its surroundings; a pocket of
gas is wide, even, and has a wall nearly all around. Only the lower part of the chest is searched,
so that bullae, which gather at the apices, are not touched.
"""

from __future__ import annotations

import numpy as np

from .boxes import grown

#: Smoothed by this, noise and small vessels are gone while a pocket stays dark.
SMOOTHING_MM = 3.0
GAS_BELOW_HU = -940.0
#: Of the dark core; smaller pockets are dropped as pieces, if at all.
SMALLEST_ML = 2.0
#: Radius of the largest ball that fits into a pocket; vessels leave less room in lung.
WIDE_FROM_MM = 6.0
WALL_FROM_HU = -400.0
#: How far the wall may be from the dark core along k, j, i.
WALL_WITHIN_MM = 8.0
#: Share of a pocket's surface that has a wall. Measured: pockets 0.66 to 1, emphysema 0.44 to 0.61.
WALLED_SHARE = 0.63
#: Share of the lungs' height, from the feet, in which a pocket's centre lies.
LOWER_SHARE = 0.4
#: The core grows into all that is as dark as gas and hangs together with it: corners, as over a level of fluid, are
#: too narrow for the smoothing. Lung on the other side of the wall may be as dark, but the wall is not.
DARK_BELOW_HU = -900.0
#: Then into what gas and wall share.
RIM_BELOW_HU = -500.0
RIM_VOXELS = 2
#: Then into the wall, a rim of which is taken for lung with the gas; lung beyond the wall is darker than this.
WALL_ABOVE_HU = -700.0
WALL_VOXELS = 2


def abdominal_gas(
    hu_kji: np.ndarray, *, lungs_kji: np.ndarray, inside_kji: np.ndarray, spacing_kji_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return the pockets of gas below the lungs, with the inner side of their walls, as a mask.

    Args:
        hu_kji: (k, j, i) HU in patient axes, k to the head.
        lungs_kji: (k, j, i) bool, what is taken for lung; gives the height that is searched.
        inside_kji: (k, j, i) bool, the patient.
        spacing_kji_mm: Voxel spacing.
    """
    from scipy import ndimage

    found = np.zeros(hu_kji.shape, dtype=bool)
    levels = np.flatnonzero(lungs_kji.any(axis=(1, 2)))
    if not levels.size:
        return found
    highest = levels[0] + LOWER_SHARE * (levels[-1] - levels[0])
    # A pocket's centre lies below `highest`; it may itself reach as far above.
    part = slice(0, min(hu_kji.shape[0], int(2 * highest) + 1))
    hu, spacing = hu_kji[part], np.asarray(spacing_kji_mm)
    voxel_ml = float(spacing.prod()) / 1000.0
    core = (ndimage.gaussian_filter(hu, SMOOTHING_MM / spacing) < GAS_BELOW_HU) & inside_kji[part]
    pieces, count = ndimage.label(core)
    sizes_ml = np.bincount(pieces.ravel(), minlength=count + 1) * voxel_ml
    boxes = ndimage.find_objects(pieces)
    reach = np.ceil(WALL_WITHIN_MM / spacing).astype(int)
    room = np.maximum(reach, RIM_VOXELS + WALL_VOXELS)
    for n in 1 + np.flatnonzero(sizes_ml[1:] >= SMALLEST_ML):
        box = grown(boxes[n - 1], margin_kji=room, shape_kji=hu.shape)
        piece = pieces[box] == n
        low = ndimage.center_of_mass(piece)[0] + box[0].start <= highest
        if low and _is_pocket(piece, hu[box], spacing_kji_mm=spacing, reach=reach):
            found[part][box] |= _with_wall(piece, hu[box])
    return found


def _is_pocket(piece: np.ndarray, hu: np.ndarray, *, spacing_kji_mm: np.ndarray, reach: np.ndarray) -> bool:
    """Tell whether a dark piece is wide and walled."""
    from scipy import ndimage

    wide = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=spacing_kji_mm).max() >= WIDE_FROM_MM
    if not wide:
        return False
    # Noise is averaged out, so that a wall is more than a bright voxel.
    outside = np.where(piece, -np.inf, ndimage.uniform_filter(hu, 3))
    walled = ndimage.maximum_filter(outside, size=tuple(2 * reach + 1)) > WALL_FROM_HU
    surface = piece & ~ndimage.binary_erosion(piece, border_value=1)
    return bool(walled[surface].mean() >= WALLED_SHARE)


def _with_wall(piece: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Return the piece grown into the dark voxels around it, then into their wall."""
    from scipy import ndimage

    cube = ndimage.generate_binary_structure(3, 2)
    gas = ndimage.binary_propagation(piece, cube, mask=piece | (hu < DARK_BELOW_HU))
    gas = ndimage.binary_dilation(gas, cube, iterations=RIM_VOXELS, mask=hu < RIM_BELOW_HU)
    return np.asarray(ndimage.binary_dilation(gas, cube, iterations=WALL_VOXELS, mask=hu > WALL_ABOVE_HU) | gas)
