"""Which lung an infection belongs to: the one it lies in, else the nearer one in millimetres.

In an exclusive labelmap every infected voxel lies outside both lung labels, so this decides
for all of them. The answer is exact, yet cheap: distances are compared block by block, about
4 mm at a time. Nearly everywhere the two differ by more than the position within a block can
change; only halfway between the lungs smaller blocks are needed, down to single voxels.
"""

from __future__ import annotations

import numpy as np

from ..boxes import Box, bounding_box
from ..geometry import Geometry
from ..labels import Label

#: About the side of the blocks in which distances are compared first.
BLOCK_MM = 4.0
#: Distances that differ by less count as equal, and then the left lung gets the voxel.
TIE_MM = 1e-6


def assign_infection_to_lungs(
    infection_kji: np.ndarray, *, left_kji: np.ndarray, right_kji: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Return the infection of the left and of the right lung.

    Infection inside a lung mask belongs to that lung (to both, where the masks overlap).
    Infection outside both belongs to the lung whose nearest voxel centre is nearer in mm;
    at equal distances to the left lung. If one lung has no voxel, the other takes
    everything outside; if neither has, nothing is assigned.

    Args:
        infection_kji: (k, j, i) bool.
        left_kji: (k, j, i) bool, left lung with or without its infection.
        right_kji: (k, j, i) bool, right lung with or without its infection.
        geometry: Grid of the masks; only its spacing is used.

    Returns:
        Two (k, j, i) bool arrays, new; their union is the infection unless both lungs are empty.

    Source: METHOD section 10.
    """
    infection_left = infection_kji & left_kji
    infection_right = infection_kji & right_kji
    outside_kji = infection_kji & ~(left_kji | right_kji)
    if not outside_kji.any():
        return infection_left, infection_right
    has_left, has_right = bool(left_kji.any()), bool(right_kji.any())
    if has_left and has_right:
        _split(outside_kji, (left_kji, right_kji), (infection_left, infection_right), geometry)
    elif has_left:
        infection_left |= outside_kji
    elif has_right:
        infection_right |= outside_kji
    return infection_left, infection_right


def whole_lungs_labelmap(labelmap_kji: np.ndarray, *, geometry: Geometry) -> np.ndarray:
    """Return the lungs including their infection, from the exclusive labelmap.

    Args:
        labelmap_kji: (k, j, i) integers, values as in `Label`.
        geometry: Grid of the labelmap.

    Returns:
        (k, j, i) uint8: 1 left lung, 2 right lung, 0 elsewhere; infection belongs to the
        lung that `assign_infection_to_lungs` says, and to none if there is no lung at all.
    """
    whole_kji = np.zeros(labelmap_kji.shape, dtype=np.uint8)
    box = bounding_box(labelmap_kji)
    if box is None:
        return whole_kji
    labels, whole = labelmap_kji[box], whole_kji[box]
    left, right = labels == Label.LEFT_LUNG, labels == Label.RIGHT_LUNG
    infection_left, infection_right = assign_infection_to_lungs(
        labels == Label.INFECTION, left_kji=left, right_kji=right, geometry=geometry
    )
    whole[right | infection_right] = Label.RIGHT_LUNG
    whole[left | infection_left] = Label.LEFT_LUNG
    return whole_kji


def _split(
    outside_kji: np.ndarray,
    lungs_kji: tuple[np.ndarray, np.ndarray],
    infection_of_lungs_kji: tuple[np.ndarray, np.ndarray],
    geometry: Geometry,
) -> None:
    """Add each voxel of `outside_kji` to the infection of the nearer lung, in place.

    Block distances are measured between block centres. Both the voxel and the lung's voxel lie
    at most one radius from the centre of their block, so the distance between them differs from
    the blocks' by at most 2 radii, and the difference of two distances by at most 4.
    """
    spacing_kji_mm = np.asarray(geometry.spacing_ijk_mm[::-1])
    block = np.maximum(1, np.round(BLOCK_MM / spacing_kji_mm)).astype(int)
    radius_mm = _radius_mm(block, spacing_kji_mm)
    distance_mm = [_block_distance_mm(lung, block, spacing_kji_mm) for lung in lungs_kji]
    lead_mm = distance_mm[1] - distance_mm[0]  # by how much the left lung is nearer
    nearer_left, nearer_right = lead_mm > 4.0 * radius_mm + TIE_MM, lead_mm < -4.0 * radius_mm - TIE_MM
    undecided = np.zeros_like(outside_kji)
    for k_block in range(lead_mm.shape[0]):
        planes = slice(k_block * block[0], (k_block + 1) * block[0])
        outside = outside_kji[planes]
        if not outside.any():
            continue
        left_ji, right_ji = (_spread(near[k_block], block, outside.shape) for near in (nearer_left, nearer_right))
        infection_of_lungs_kji[0][planes] |= outside & left_ji
        infection_of_lungs_kji[1][planes] |= outside & right_ji
        undecided[planes] = outside & ~(left_ji | right_ji)
    if undecided.any():
        reach_mm = _reach_mm(undecided, distance_mm, block) + 2.0 * radius_mm
        _split_by_halving(undecided, lungs_kji, infection_of_lungs_kji, block, spacing_kji_mm, reach_mm)


def _block_any(mask_kji: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return which blocks hold a True voxel; the last block along an axis may be incomplete."""
    starts_k, starts_j, starts_i = (np.arange(0, n, b) for n, b in zip(mask_kji.shape, block, strict=True))
    rows = []
    for start in starts_k:
        shadow_ji = np.logical_or.reduce(mask_kji[start : start + block[0]], axis=0)
        rows.append(np.logical_or.reduceat(np.logical_or.reduceat(shadow_ji, starts_j, axis=0), starts_i, axis=1))
    return np.stack(rows)


def _block_distance_mm(lung_kji: np.ndarray, block: np.ndarray, spacing_kji_mm: np.ndarray) -> np.ndarray:
    """Return the distance of each block to the nearest one that holds lung, centre to centre."""
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~_block_any(lung_kji, block), sampling=block * spacing_kji_mm))


def _spread(blocks_ji: np.ndarray, block: np.ndarray, shape_kji: tuple[int, ...]) -> np.ndarray:
    """Return a plane of blocks as a plane of voxels."""
    voxels = np.repeat(np.repeat(blocks_ji, block[1], axis=0), block[2], axis=1)
    return np.asarray(voxels[: shape_kji[1], : shape_kji[2]])


def _reach_mm(undecided_kji: np.ndarray, distance_mm: list[np.ndarray], block: np.ndarray) -> float:
    """Return the greatest block distance to either lung among the undecided voxels."""
    blocks = _block_any(undecided_kji, block)
    return float(max(distance[blocks].max() for distance in distance_mm))


def _split_by_halving(
    undecided_kji: np.ndarray,
    lungs_kji: tuple[np.ndarray, np.ndarray],
    infection_of_lungs_kji: tuple[np.ndarray, np.ndarray],
    block: np.ndarray,
    spacing_kji_mm: np.ndarray,
    reach_mm: float,
) -> None:
    """Add the undecided voxels to the infection of the nearer lung, by distances to the lungs' surface voxels.

    Both distances are measured from the centre of each block; within it, their difference
    changes by at most 2 radii. Voxels of blocks that this leaves undecided are looked at again
    in blocks of half the size, in the end one by one. No lung farther than `reach_mm` matters.
    """
    from scipy.spatial import cKDTree

    index = np.argwhere(undecided_kji)
    margin = np.ceil(reach_mm / spacing_kji_mm).astype(int) + 1
    low = np.maximum(index.min(axis=0) - margin, 0)
    high = np.minimum(index.max(axis=0) + margin + 1, undecided_kji.shape)
    near: Box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    trees = [cKDTree((_surface_index(lung[near]) + low) * spacing_kji_mm) for lung in lungs_kji]
    while len(index):
        flat = np.ravel_multi_index(tuple((index // block).T), undecided_kji.shape)
        blocks, block_of_voxel = np.unique(flat, return_inverse=True)
        corner = np.stack(np.unravel_index(blocks, undecided_kji.shape), axis=1) * block
        center_mm = (corner + (block - 1) / 2.0) * spacing_kji_mm
        left_mm, right_mm = (tree.query(center_mm, workers=-1)[0] for tree in trees)
        lead_mm = (right_mm - left_mm)[block_of_voxel]
        slack_mm = 2.0 * _radius_mm(block, spacing_kji_mm)
        to_left = lead_mm >= slack_mm - TIE_MM
        to_right = ~to_left if slack_mm == 0.0 else lead_mm < -slack_mm - TIE_MM
        for infection_kji, chosen in zip(infection_of_lungs_kji, (to_left, to_right), strict=True):
            infection_kji[tuple(index[chosen].T)] = True
        index = index[~(to_left | to_right)]
        block = np.maximum(block // 2, 1)


def _radius_mm(block: np.ndarray, spacing_kji_mm: np.ndarray) -> float:
    """Return how far a voxel centre can lie from the centre of its block."""
    return float(np.linalg.norm((block - 1) * spacing_kji_mm)) / 2.0


def _surface_index(mask_kji: np.ndarray) -> np.ndarray:
    """Return the (n, 3) indices of the True voxels that share a face with a False one.

    The voxel of the mask nearest to any point outside is always one of these: from an inner
    voxel, a step towards the point leads to a nearer one.
    """
    from scipy.ndimage import binary_erosion

    return np.argwhere(mask_kji & ~binary_erosion(mask_kji, border_value=1))
