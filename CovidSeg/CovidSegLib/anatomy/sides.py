"""Decide which lung is the left one, by the network's vote per lung instead of per voxel.

A voxel deep in a lung looks the same on either side, so the network now and then labels a part
of one lung as the other. But the two lungs are separate bodies: once the thin bridge where they
touch is cut, each gets, as a whole, the side that most of its voxels were given.
"""

from __future__ import annotations

import numpy as np

from ..labels import Label

LEFT, RIGHT = int(Label.LEFT_LUNG), int(Label.RIGHT_LUNG)
#: The cores of the two lungs, as masks (k, j, i), in no order.
Bodies = tuple[np.ndarray, np.ndarray]

#: By how much both lungs are eroded, tried one after the other until they come apart.
SHRINK_MM = (0.0, 2.5, 4.0, 6.0, 9.0, 13.0)
#: The smaller of two lungs has at least this share of the larger one's volume.
SMALLER_LUNG_SHARE = 0.15
#: A further piece of at least this share of the larger lung may join one of them by position and vote, see
#: `_with_parts`; smaller ones just go to the nearer lung.
PART_SHARE = 0.01
#: Two bodies whose votes are for the same side are two lungs only if their centres are this far apart from left to
#: right. The upper and the lower part of a single lung are not.
LUNGS_APART_MM = 60.0
#: Where the distances to the two lungs differ by less than this, that is within 3 mm of the border between them, the
#: network's own answer stands.
UNDECIDED_MM = 6.0


def settle_sides(probabilities: np.ndarray, labels: np.ndarray, *, spacing_kji_mm: tuple[float, float, float]) -> None:
    """Make each lung one-sided, in place.

    Args:
        probabilities: (4, k, j, i) float32 of `Label`; the two lungs' are exchanged where the side changes.
        labels: (k, j, i) uint8, their argmax; i runs to the patient's left.
        spacing_kji_mm: Voxel spacing.
    """
    lungs = labels > 0
    if not lungs.any():
        return
    # Whole lungs come apart just as well on a grid half as fine in-plane, eight times faster.
    step = (1, 2, 2)
    coarse = tuple(slice(None, None, n) for n in step)
    spacing = tuple(n * s for n, s in zip(step, spacing_kji_mm, strict=True))
    bodies = _two_lungs(labels[coarse], spacing_mm=spacing)
    if bodies is None or _are_one_lung(bodies, labels[coarse], step_i_mm=spacing[2]):
        _flip_islands(probabilities, labels, spacing_mm=spacing_kji_mm)
        return
    left_mm, right_mm = _distances_to_sides(bodies, labels[coarse], spacing_mm=spacing)
    side = np.where(left_mm < right_mm, np.uint8(LEFT), np.uint8(RIGHT))
    side[np.abs(left_mm - right_mm) < UNDECIDED_MM] = 0
    for axis, n in enumerate(step):
        side = side.repeat(n, axis=axis)
    k, j, i = labels.shape
    _put(probabilities, labels, side=side[:k, :j, :i])


def _two_lungs(labels: np.ndarray, *, spacing_mm: tuple[float, ...]) -> Bodies | None:
    """Return the cores of the two lungs; None if there is only one lung, or if they do not come apart."""
    from scipy import ndimage

    depth_mm = ndimage.distance_transform_edt(labels > 0, sampling=spacing_mm)
    for shrink_mm in SHRINK_MM:
        pieces, count = ndimage.label(depth_mm > shrink_mm)
        if count < 2:
            continue
        sizes = np.bincount(pieces.ravel())[1:]
        second, first = np.argsort(sizes)[-2:] + 1
        if sizes[second - 1] >= SMALLER_LUNG_SHARE * sizes[first - 1]:
            others = 1 + np.flatnonzero(sizes >= PART_SHARE * sizes[first - 1])
            parts = [pieces == number for number in others if number not in (first, second)]
            return _with_parts((pieces == first, pieces == second), parts=parts, labels=labels)
    return None


def _with_parts(bodies: Bodies, *, parts: list[np.ndarray], labels: np.ndarray) -> Bodies:
    """Return the bodies, changed in place, with the parts that lie on their side and vote for it.

    The erosion that separates the lungs sometimes severs a lobe from its lung, too, and the other lung may be nearer.
    """
    is_left = [_votes_for_left(labels[body]) > 0.5 for body in bodies]
    centers_i = [_center_i(body) for body in bodies]
    if is_left[0] == is_left[1] or is_left[0] != (centers_i[0] > centers_i[1]):
        return bodies
    left, right = bodies if is_left[0] else bodies[::-1]
    for part in parts:
        votes_left = _votes_for_left(labels[part]) > 0.5
        if votes_left == (_center_i(part) > sum(centers_i) / 2.0):
            (left if votes_left else right)[part] = True
    return bodies


def _are_one_lung(bodies: Bodies, labels: np.ndarray, *, step_i_mm: float) -> bool:
    """Tell whether both bodies are parts of one lung, the other being missing or outside the image."""
    votes = [_votes_for_left(labels[body]) > 0.5 for body in bodies]
    first, second = (_center_i(body) * step_i_mm for body in bodies)
    return votes[0] == votes[1] and abs(first - second) < LUNGS_APART_MM


def _distances_to_sides(
    bodies: Bodies, labels: np.ndarray, *, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return each voxel's distance in mm to the left and to the right lung."""
    from scipy import ndimage

    away = [np.asarray(ndimage.distance_transform_edt(~body, sampling=spacing_mm)) for body in bodies]
    votes = [_votes_for_left(labels[body]) for body in bodies]
    position = [_center_i(body) for body in bodies]
    # If both bodies vote for the same side, position decides: the one further to the left is the left lung.
    agree = (votes[0] > 0.5) == (votes[1] > 0.5)
    left = int(np.argmax(position) if agree else np.argmax(votes))
    return away[left], away[1 - left]


def _center_i(body: np.ndarray) -> float:
    """Return the mean position of a mask along i, in voxels."""
    return float(np.nonzero(body)[2].mean())


def _votes_for_left(labels: np.ndarray) -> float:
    """Return the share of left lung among the voxels labelled left or right lung."""
    left, right = int(np.count_nonzero(labels == LEFT)), int(np.count_nonzero(labels == RIGHT))
    return left / max(1, left + right)


def _flip_islands(probabilities: np.ndarray, labels: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> None:
    """Give islands of one side to the other side if they lie nearer to that side's largest piece than to their own."""
    from scipy import ndimage

    pieces: dict[int, np.ndarray] = {}
    largest: dict[int, int] = {}
    for side in (LEFT, RIGHT):
        pieces[side], count = ndimage.label(labels == side)
        if count == 0:
            return
        largest[side] = 1 + int(np.argmax(np.bincount(pieces[side].ravel())[1:]))
    away = {
        side: ndimage.distance_transform_edt(pieces[side] != largest[side], sampling=spacing_mm)
        for side in (LEFT, RIGHT)
    }
    new_side = np.zeros(labels.shape, dtype=np.uint8)
    for side, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        index = np.arange(1, int(pieces[side].max()) + 1)
        to_own = np.asarray(ndimage.minimum(away[side], pieces[side], index))
        to_other = np.asarray(ndimage.minimum(away[other], pieces[side], index))
        misplaced = np.concatenate([[False], (to_other < to_own) & (index != largest[side])])
        new_side[misplaced[pieces[side]]] = other
    _put(probabilities, labels, side=new_side)


def _put(probabilities: np.ndarray, labels: np.ndarray, *, side: np.ndarray) -> None:
    """Move the probability of both lungs to the side wanted (0: neither, it stays as it is), in place."""
    both = probabilities[LEFT] + probabilities[RIGHT]
    for wanted, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        where = side == wanted
        probabilities[wanted][where] = both[where]
        probabilities[other][where] = 0.0
        labels[where & (labels == other)] = wanted
