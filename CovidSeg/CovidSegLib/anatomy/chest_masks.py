"""Masks of the patient and of the air-filled lungs in a CT resampled to a coarse grid (about 4 mm).

All volumes are (k, j, i) along the patient's axes (k to the head, j to the back, i to the left).
"""

from __future__ import annotations

import numpy as np

#: Halfway between aerated lung and soft tissue; "air" below means voxels under it, lung included.
AIR_BELOW_HU = -400.0
#: The median of air around the patient, blankets included, is below this; aerated lung is mostly denser.
OUTSIDE_AIR_BELOW_HU = -860.0
#: A piece of air lies around the patient if more than the first share of its surface is on the image's border, or more
#: than the second share if its median is also that of outside air (`OUTSIDE_AIR_BELOW_HU`).
SURELY_OUTER_SHARE, MAYBE_OUTER_SHARE = 0.6, 0.2
#: A piece of air inside the body is lung only from this volume on, and from this share of the largest piece.
SMALL_PIECE_ML, SMALL_PIECE_SHARE = 15.0, 0.01
#: The median of air in trachea and bowel is below this; lung also contains tissue.
LUMEN_BELOW_HU = -975.0
#: A piece of which no more than this share survives an erosion by one voxel is noise.
LACE_SHARE = 0.03
#: A piece of air that the border of the image cuts open is foam of the table, not lung, if less than this share of it
#: lies between parts of the body. Measured: foam 0.00; lung cut by a small round field of view 0.17 to 1.
LUNG_BETWEEN_SHARE = 0.1
#: One value on more than this share of the border is padding: where a body reaches the border, values differ.
PADDING_SHARE = 0.3
#: Padding lies outside this range, see `padding_value`.
NO_TISSUE_BELOW_HU, NO_AIR_FROM_HU = -900.0, -200.0
#: With less tissue around the lungs than this share of their volume, there is no body.
LITTLE_BODY_SHARE = 0.1


def body_and_lungs(coarse_hu: np.ndarray, *, padding: np.ndarray, voxel_ml: float) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the patient (lungs included) and of the air-filled lungs.

    Args:
        coarse_hu: (k, j, i) HU on the coarse grid.
        padding: (k, j, i) bool, where the image holds padding.
        voxel_ml: Volume of a voxel of the coarse grid.
    """
    from scipy import ndimage

    air = (coarse_hu < AIR_BELOW_HU) & ~padding
    # The patient is the largest piece of tissue after an opening, which removes thin shells (table, blankets).
    tissue = ~air & ~padding
    # The patient continues beyond the first and the last slice, so the border must not erode.
    core = _largest(dilate(ndimage.binary_erosion(tissue, border_value=1), 1))
    body = dilate(core, 2) & tissue

    pieces, count = _pieces(air)
    border = dilate(padding, 1) | in_plane_border(air.shape)
    outer = _outer_air(coarse_hu, air=air, pieces=pieces, count=count, border=border)
    open_lung = np.setdiff1d(np.unique(pieces[border]), [0, *outer])
    between = np.asarray(ndimage.mean(_between(body), pieces, open_lung))
    foam, open_lung = open_lung[between < LUNG_BETWEEN_SHARE], open_lung[between >= LUNG_BETWEEN_SHARE]
    outside = padding | np.isin(pieces, [*outer, *foam])
    filled = _filled(body, outside=outside)
    # Lung that a cropped image cuts open is not enclosed by tissue, yet lies inside the body.
    inner_air = air & ~outside & (filled | np.isin(pieces, open_lung))
    lungs = _lung_pieces(inner_air, coarse_hu, voxel_ml=voxel_ml)
    if body.sum() < LITTLE_BODY_SHARE * lungs.sum():
        lungs = np.zeros_like(lungs)
    inside = ndimage.binary_closing(filled | lungs, iterations=2) | filled | lungs
    return (inside | _cut_off(tissue & ~body, lungs=lungs)) & ~outside, lungs


def _cut_off(loose: np.ndarray, *, lungs: np.ndarray) -> np.ndarray:
    """Return the pieces of loose tissue that touch lung: parts of the patient that a cropped image cuts off from it.

    Such are consolidation and a strip of chest wall at the border of the image. What does not belong to the patient
    never touches lung, as the chest wall lies between.
    """
    from scipy import ndimage

    pieces, _count = ndimage.label(loose)
    touching = np.unique(pieces[dilate(lungs, 1)])
    return np.isin(pieces, touching[touching > 0])


def _filled(body: np.ndarray, *, outside: np.ndarray) -> np.ndarray:
    """Return the body with the holes of each slice filled; the border of the image closes holes that it cuts open."""
    from scipy import ndimage

    wall = in_plane_border(body.shape) & ~outside & ~body
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body | wall]) & ~wall


def _between(body: np.ndarray) -> np.ndarray:
    """Return the voxels that have body both in front and behind, or both to the right and to the left.

    Lung lies like this, even where a cropped image cuts it open; the foam of a table does not: it lies behind the body.
    """
    found = np.zeros(body.shape, dtype=bool)
    for axis in (1, 2):
        before = np.logical_or.accumulate(body, axis=axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
        found |= before & behind
    return found


def _outer_air(
    coarse_hu: np.ndarray, *, air: np.ndarray, pieces: np.ndarray, count: int, border: np.ndarray
) -> list[int]:
    """Return the numbers of the pieces of air that lie around the patient.

    They have much of their surface on the border of the image. Lung that a cropped image cuts has little of it there,
    or is denser than air.
    """
    from scipy import ndimage

    index = np.arange(1, count + 1)
    surface = air & ~ndimage.binary_erosion(air)
    share = np.asarray(ndimage.sum_labels(surface & border, pieces, index)) / np.maximum(
        np.asarray(ndimage.sum_labels(surface, pieces, index)), 1
    )
    medians = _medians(coarse_hu, pieces, count=count)
    may_be_outer = (share > MAYBE_OUTER_SHARE) & (medians < OUTSIDE_AIR_BELOW_HU)
    is_outer = (share > SURELY_OUTER_SHARE) | may_be_outer
    return [int(n) for n in index[is_outer]]


def _lung_pieces(inner_air: np.ndarray, coarse_hu: np.ndarray, *, voxel_ml: float) -> np.ndarray:
    """Return the air inside the body that is lung rather than bowel gas, trachea or noise, as a mask."""
    from scipy import ndimage

    labels, count = _pieces(inner_air)
    if count == 0:
        return np.zeros(inner_air.shape, dtype=bool)
    index = np.arange(1, count + 1)
    volumes_ml = np.asarray(ndimage.sum_labels(inner_air, labels, index)) * voxel_ml
    medians = _medians(coarse_hu, labels, count=count)
    # Noise makes connected pieces as well, but they are nowhere thick.
    inner_ml = (
        np.asarray(ndimage.sum_labels(ndimage.binary_erosion(inner_air, border_value=1), labels, index)) * voxel_ml
    )
    large = volumes_ml >= max(SMALL_PIECE_ML, SMALL_PIECE_SHARE * volumes_ml.max())
    keep = index[large & (medians > LUMEN_BELOW_HU) & (inner_ml > LACE_SHARE * volumes_ml)]
    return np.isin(labels, keep)


def _pieces(air: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the connected pieces of air, numbered from 1, and their count; bridges one or two voxels wide are cut.

    On this grid a thin chest wall (armpit, lean patient) can leak, which would join lung to the air outside.
    """
    from scipy import ndimage

    labels, count = ndimage.label(ndimage.binary_erosion(air, border_value=1))
    for _step in range(2):
        grown = ndimage.grey_dilation(labels, size=3)
        labels = np.where((labels == 0) & air, grown, labels)
    rest, more = ndimage.label(air & (labels == 0))
    return np.where(rest > 0, rest + count, labels), count + more


def _medians(coarse_hu: np.ndarray, pieces: np.ndarray, *, count: int) -> np.ndarray:
    """Return the median HU of each piece, numbered from 1."""
    from scipy import ndimage

    if count == 0:
        return np.zeros(0)
    # Without the background: scipy sorts all the voxels that it is given.
    used = pieces > 0
    return np.asarray(ndimage.median(coarse_hu[used], pieces[used], np.arange(1, count + 1)))


def _largest(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected piece of a mask; empty masks as they are."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def dilate(mask: np.ndarray, iterations: int) -> np.ndarray:
    """Return `mask` grown by `iterations` voxels, each to the six neighbours that share a face."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, iterations=iterations))


def touching_sides(mask: np.ndarray) -> np.ndarray:
    """Return the pieces of `mask` that reach the in-plane border of the image."""
    from scipy import ndimage

    labels, _count = ndimage.label(mask)
    on_rim = rim(labels)
    return np.isin(labels, np.unique(on_rim[on_rim > 0]))


def in_plane_border(shape_kji: tuple[int, ...]) -> np.ndarray:
    """Return a (k, j, i) mask of the first and last row and column of every slice."""
    border = np.zeros(shape_kji, dtype=bool)
    border[:, (0, -1)] = border[:, :, (0, -1)] = True
    return border


def rim(volume: np.ndarray) -> np.ndarray:
    """Return the values of the voxels on the in-plane border of every slice, flat; those of the corners twice."""
    return np.concatenate(
        [volume[:, 0].ravel(), volume[:, -1].ravel(), volume[:, :, 0].ravel(), volume[:, :, -1].ravel()]
    )


def padding_value(volume: np.ndarray) -> float | None:
    """Return the value with which the image is padded, None if it is not: scanners and croppers pad with a constant.

    Usually it is below that of any tissue, but programs that rotate or resample images may pad with 0 or white. A
    value in between is not taken for padding: on a wrong scale it may be the air around the patient.
    """
    values, counts = np.unique(rim(volume), return_counts=True)
    most = int(np.argmax(counts))
    is_plausible = values[most] <= NO_TISSUE_BELOW_HU or values[most] >= NO_AIR_FROM_HU
    return float(values[most]) if is_plausible and counts[most] > PADDING_SHARE * counts.sum() else None
