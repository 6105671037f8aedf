"""Find gas in stomach and bowel below the lungs: as dark as air, it is easily taken for lung.

Lung, even with emphysema, is crossed by vessels and has gradual borders; a pocket of gas is wide,
uniform, and has a wall nearly all around (`abdominal_gas`). A narrow loop of bowel is neither wide
nor uniform, but its air does not hang together with the lungs', and the network calls most of it
background (`outvoted_air`). Only the lower part of the chest is searched, so that bullae, which
occur mostly at the apices, are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..boxes import Box, grown

#: Standard deviation of the smoothing that removes noise and small vessels, while a pocket stays dark.
SMOOTHING_MM = 3.0
#: The core of a pocket is darker than this after smoothing.
GAS_BELOW_HU = -940.0
#: Smallest core of a pocket; smaller pockets are left to the rule for small pieces of lung.
SMALLEST_ML = 2.0
#: A ball of this radius fits into the core of a pocket; in lung, vessels leave less room.
WIDE_FROM_MM = 6.0
#: The wall of a pocket is denser than this.
WALL_FROM_HU = -400.0
#: How far the wall may be from the core, along k, j and i.
WALL_WITHIN_MM = 8.0
#: At least this share of the core's surface has a wall near it. Measured: pockets 0.66 to 1, emphysema 0.44 to 0.61.
WALLED_SHARE = 0.63
#: The centre of a pocket lies in this share of the lungs' height, from the feet.
LOWER_SHARE = 0.4
#: First the core grows into all connected voxels darker than this: corners, as above a fluid level, are too narrow to
#: stay dark when smoothed. Lung beyond the wall may be as dark, but the wall between is not.
DARK_BELOW_HU = -900.0
#: Then by this many voxels into those darker than this, a mixture of gas and wall.
RIM_BELOW_HU = -500.0
RIM_VOXELS = 2
#: Then by this many voxels into those denser than this: the inner side of the wall, which the network takes for lung
#: as well. Lung beyond the wall is darker.
WALL_ABOVE_HU = -700.0
WALL_VOXELS = 2

#: Air that the network's votes are counted for is darker than this; the walls between bowel and lung are denser.
AIR_BELOW_HU = -600.0
#: Size of such a piece of air. Specks are left to the rules for small pieces; a lung that the network mostly missed is
#: larger.
VOTED_ML = (0.3, 300.0)


def abdominal_gas(
    hu_kji: np.ndarray, *, lungs_kji: np.ndarray, inside_kji: np.ndarray, spacing_kji_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return the pockets of gas below the lungs, with the inner side of their walls, as a mask.

    Args:
        hu_kji: (k, j, i) HU in patient axes, k to the head.
        lungs_kji: (k, j, i) bool, what the network takes for lung; it gives the height that is searched.
        inside_kji: (k, j, i) bool, the patient.
        spacing_kji_mm: Voxel spacing.
    """
    from scipy import ndimage

    found = np.zeros(hu_kji.shape, dtype=bool)
    if not lungs_kji.any():
        return found
    part, highest = _searched(lungs_kji)
    hu, spacing = hu_kji[part], np.asarray(spacing_kji_mm)
    voxel_ml = float(spacing.prod()) / 1000.0
    core = (ndimage.gaussian_filter(hu, SMOOTHING_MM / spacing) < GAS_BELOW_HU) & inside_kji[part]
    pieces, count = ndimage.label(core)
    sizes_ml = np.bincount(pieces.ravel(), minlength=count + 1) * voxel_ml
    reach = np.ceil(WALL_WITHIN_MM / spacing).astype(int)
    room = np.maximum(reach, RIM_VOXELS + WALL_VOXELS)
    for box, piece in _low_pieces(pieces, chosen=sizes_ml >= SMALLEST_ML, highest=highest, room_kji=room):
        if _is_pocket(piece, hu[box], spacing_kji_mm=spacing, reach=reach):
            found[part][box] |= _with_wall(piece, hu[box])
    return found


def outvoted_air(
    hu_kji: np.ndarray, *, lungs_kji: np.ndarray, inside_kji: np.ndarray, spacing_kji_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return the pieces of air below the lungs that are mostly no lung to the network, with their walls, as a mask.

    A piece of air is lung as a whole or not at all. Aerated lung within consolidation is a piece of its own, too, but
    the network calls it lung, and what surrounds it infection.

    Args:
        hu_kji: (k, j, i) HU in patient axes, k to the head.
        lungs_kji: (k, j, i) bool, what the network takes for lung, without the pockets of `abdominal_gas`.
        inside_kji: (k, j, i) bool, the patient.
        spacing_kji_mm: Voxel spacing.
    """
    from scipy import ndimage

    found = np.zeros(hu_kji.shape, dtype=bool)
    if not lungs_kji.any():
        return found
    part, highest = _searched(lungs_kji)
    air, lungs = (hu_kji[part] < AIR_BELOW_HU) & inside_kji[part], lungs_kji[part]
    pieces, count = ndimage.label(air)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    votes = np.bincount(pieces[lungs], minlength=count + 1)
    least, most = (ml * 1000.0 / float(np.prod(spacing_kji_mm)) for ml in VOTED_ML)
    outvoted = (votes > 0) & (2 * votes < sizes) & (sizes >= least) & (sizes <= most)
    for box, piece in _low_pieces(pieces, chosen=outvoted, highest=highest, room_kji=(WALL_VOXELS,) * 3):
        wall = _dilated(piece, within=~air[box]) & ~piece
        if 2 * np.count_nonzero(lungs[box] & wall) <= np.count_nonzero(wall):
            found[part][box] |= piece | wall
    return found


def _searched(lungs_kji: np.ndarray) -> tuple[slice, float]:
    """Return the slices that pockets may reach into, and the highest level, in voxels along k, of a pocket's centre."""
    levels = np.flatnonzero(lungs_kji.any(axis=(1, 2)))
    highest = levels[0] + LOWER_SHARE * (levels[-1] - levels[0])
    return slice(int(2 * highest) + 1), highest  # the upper part may reach as far above it as the centre lies below


def _low_pieces(
    pieces: np.ndarray, *, chosen: np.ndarray, highest: float, room_kji: Sequence[int]
) -> Iterator[tuple[Box, np.ndarray]]:
    """Yield the box, with room, and the mask of each chosen piece whose centre lies low enough.

    Args:
        pieces: (k, j, i) numbers of the pieces, from 1.
        chosen: Which numbers to look at; the first entry, of what is no piece, does not count.
        highest: Highest level of a centre, in voxels along k.
        room_kji: Voxels to add to the box on either side.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(pieces)
    for n in 1 + np.flatnonzero(chosen[1:]):
        box = grown(boxes[n - 1], margin_kji=room_kji, shape_kji=pieces.shape)
        piece = pieces[box] == n
        if ndimage.center_of_mass(piece)[0] + box[0].start <= highest:
            yield box, piece


def _dilated(mask: np.ndarray, *, within: np.ndarray) -> np.ndarray:
    """Return a mask grown by the thickness of a wall, into some voxels only."""
    from scipy import ndimage

    by_face_or_edge = ndimage.generate_binary_structure(3, 2)
    return np.asarray(ndimage.binary_dilation(mask, by_face_or_edge, iterations=WALL_VOXELS, mask=within))


def _is_pocket(piece: np.ndarray, hu: np.ndarray, *, spacing_kji_mm: np.ndarray, reach: np.ndarray) -> bool:
    """Tell whether a dark piece is wide, and has a wall nearly all around."""
    from scipy import ndimage

    wide = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=spacing_kji_mm).max() >= WIDE_FROM_MM
    if not wide:
        return False
    # Averaged, so that a single bright voxel of noise is no wall.
    outside = np.where(piece, -np.inf, ndimage.uniform_filter(hu, 3))
    walled = ndimage.maximum_filter(outside, size=tuple(2 * reach + 1)) > WALL_FROM_HU
    surface = piece & ~ndimage.binary_erosion(piece, border_value=1)
    return bool(walled[surface].mean() >= WALLED_SHARE)


def _with_wall(piece: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Return the piece grown into the dark voxels around it, then into their wall."""
    from scipy import ndimage

    by_face_or_edge = ndimage.generate_binary_structure(3, 2)
    gas = ndimage.binary_propagation(piece, by_face_or_edge, mask=piece | (hu < DARK_BELOW_HU))
    gas = ndimage.binary_dilation(gas, by_face_or_edge, iterations=RIM_VOXELS, mask=hu < RIM_BELOW_HU)
    return _dilated(gas, within=hu > WALL_ABOVE_HU) | gas
