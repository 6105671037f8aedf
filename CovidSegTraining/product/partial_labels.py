"""Labels for whole chests without masks: what intensity and position alone can tell, and no more.

Aerated lung is found by a threshold, the airways are removed from it, and it is split into left and right. Everything
dense near the lungs (vessels, hilum, consolidation, pleura) stays unknown; what is far from them is background.
"""

from __future__ import annotations

import numpy as np
from CovidSegLib.anatomy.abdominal_gas import abdominal_gas
from CovidSegLib.errors import InputError

from .label_codes import Code

LUNG_BELOW_HU = -450.0
SURELY_HEALTHY_BELOW_HU = -760.0
AIRWAY_BELOW_HU = -925.0
UNKNOWN_WITHIN_MM = 24.0
WALL_WITHIN_MM = 20.0
BONE_FROM_HU = 150.0
#: Share of the lungs' height, from the feet, in which abdominal organs border on them.
ABDOMEN_SHARE = 0.5


def whole_chest_codes(
    hu_kji: np.ndarray, *, inside_kji: np.ndarray, spacing_kji_mm: tuple[float, float, float], diseased: bool
) -> np.ndarray:
    """Return label codes for a whole chest along the patient's axes.

    Args:
        hu_kji: (k, j, i) HU on the network's grid, k to the head, j to the back, i to the left.
        inside_kji: (k, j, i) bool, the patient's body.
        spacing_kji_mm: Voxel spacing.
        diseased: False only if the lungs are known to be free of infection.

    Returns:
        (k, j, i) uint8 of `Code`.

    Raises:
        InputError: Left and right lung cannot be told apart.
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(hu_kji, [2.0 / s for s in spacing_kji_mm])
    air = (hu_kji < LUNG_BELOW_HU) & inside_kji
    airway = airway_mask(hu_kji, air=air, inside_kji=inside_kji, spacing_kji_mm=spacing_kji_mm)
    gas = abdominal_gas(hu_kji, lungs_kji=air & ~airway, inside_kji=inside_kji, spacing_kji_mm=spacing_kji_mm)
    left, right = _split_lungs(air & ~airway & ~gas, inside_kji=inside_kji, spacing_kji_mm=spacing_kji_mm)
    codes = np.full(hu_kji.shape, Code.BACKGROUND, dtype=np.uint8)
    codes[_closing(left | right, UNKNOWN_WITHIN_MM, spacing_kji_mm)] = Code.UNKNOWN
    codes[_grow(left | right, 3.0, spacing_kji_mm) & (codes == Code.BACKGROUND)] = Code.UNKNOWN
    if diseased:
        # Consolidated lung at the chest wall looks like the wall, and only bone is certainly not lung. Lower down,
        # liver, spleen and stomach border on the lungs, and they have to be learnt as background.
        near = _grow(left | right, WALL_WITHIN_MM, spacing_kji_mm)
        levels = np.flatnonzero((left | right).any(axis=(1, 2)))
        near[: int(levels[0] + ABDOMEN_SHARE * (levels[-1] - levels[0]))] = False
        codes[near & (hu_kji < BONE_FROM_HU) & (codes == Code.BACKGROUND)] = Code.UNKNOWN
    healthy = (smooth < SURELY_HEALTHY_BELOW_HU) | (not diseased)
    codes[left] = np.where(healthy[left], Code.LEFT_LUNG, Code.LEFT_OR_INFECTION)
    codes[right] = np.where(healthy[right], Code.RIGHT_LUNG, Code.RIGHT_OR_INFECTION)
    # The main bronchi run into the lungs without a visible border: dark voxels near the middle stay unknown.
    middle = _near_middle(inside_kji, spacing_kji_mm, within_mm=45.0)
    codes[(smooth < AIRWAY_BELOW_HU) & middle & (codes != Code.BACKGROUND)] = Code.UNKNOWN
    codes[airway | gas] = Code.BACKGROUND
    if not diseased:
        # Otherwise nothing would keep partial volume at diaphragm, hilum and apices from being called infection.
        codes[codes == Code.UNKNOWN] = Code.NOT_INFECTION
    return codes


def airway_mask(
    hu_kji: np.ndarray, *, air: np.ndarray, inside_kji: np.ndarray, spacing_kji_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return the trachea: in each axial slice, a small, dark island of air near the middle of the body."""
    from scipy import ndimage

    middle = _near_middle(inside_kji, spacing_kji_mm, within_mm=32.0)
    pixel_mm2 = spacing_kji_mm[1] * spacing_kji_mm[2]
    out = np.zeros(air.shape, dtype=bool)
    for k, plane in enumerate(air):
        labels, _ = ndimage.label(plane)
        for n, box in enumerate(ndimage.find_objects(labels), start=1):
            piece = labels[box] == n
            area_mm2 = piece.sum() * pixel_mm2
            if 30.0 < area_mm2 < 900.0 and middle[k][box][piece].mean() > 0.9 and hu_kji[k][box][piece].min() < -880.0:
                out[k][box] |= piece
    labels, _ = ndimage.label(out)
    heights = ndimage.find_objects(labels)
    tall = [n for n, box in enumerate(heights, start=1) if (box[0].stop - box[0].start) * spacing_kji_mm[0] > 25.0]
    return _grow(np.isin(labels, tall), 1.6, spacing_kji_mm) & (hu_kji < -300.0)


def _split_lungs(
    air: np.ndarray, *, inside_kji: np.ndarray, spacing_kji_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the left and right lung of an air mask; thin bridges between them are cut."""
    from scipy import ndimage

    # Erode until two pieces of similar size are left; each voxel of air then belongs to the nearer one.
    for erosion_mm in (2.0, 4.0, 6.0, 9.0, 12.0):
        seeds, count = ndimage.label(_shrink(air, erosion_mm, spacing_kji_mm))
        sizes = np.bincount(seeds.ravel())[1:]
        largest = np.argsort(-sizes)[:2]
        if count >= 2 and sizes[largest[1]] > 0.25 * sizes[largest[0]]:
            break
    else:
        raise InputError("left and right lung cannot be told apart by threshold in this chest")
    # The patient's left is at high i.
    right, left = sorted((int(n) + 1 for n in largest), key=lambda n: float(ndimage.center_of_mass(seeds == n)[2]))
    in_seed = (seeds == left) | (seeds == right)
    nearest = ndimage.distance_transform_edt(
        ~in_seed, sampling=spacing_kji_mm, return_distances=False, return_indices=True
    )
    owner = seeds[tuple(nearest)]
    pieces, _ = ndimage.label(air)
    connected = np.isin(pieces, pieces[in_seed])  # air elsewhere is no lung
    return connected & (owner == left), connected & (owner == right)


def _near_middle(inside: np.ndarray, spacing_kji_mm: tuple[float, float, float], *, within_mm: float) -> np.ndarray:
    columns = np.flatnonzero(inside.any(axis=(0, 1)))
    center = (columns[0] + columns[-1]) / 2.0
    near = np.abs(np.arange(inside.shape[2]) - center) * spacing_kji_mm[2] < within_mm
    return np.broadcast_to(near, inside.shape)


def _grow(mask: np.ndarray, distance_mm: float, spacing_kji_mm: tuple[float, float, float]) -> np.ndarray:
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing_kji_mm) <= distance_mm)


def _shrink(mask: np.ndarray, distance_mm: float, spacing_kji_mm: tuple[float, float, float]) -> np.ndarray:
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing_kji_mm) > distance_mm)


def _closing(mask: np.ndarray, distance_mm: float, spacing_kji_mm: tuple[float, float, float]) -> np.ndarray:
    return _shrink(_grow(mask, distance_mm, spacing_kji_mm), distance_mm, spacing_kji_mm)
