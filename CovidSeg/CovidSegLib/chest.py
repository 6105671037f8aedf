"""Find body and lungs cheaply, on a 4 mm grid: what is inside the patient, and where the chest lies.

The result only steers where the network looks and what it is shown as "outside"; it never
labels a voxel. It must therefore not lose lung that holds no air: around the air-filled lung
the box has room for consolidation where it gathers (bases, back), and reaches to the end of the
body on a side that shows no lung, and all around where little air is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import InputError
from .geometry import Geometry
from .orient import Orientation
from .resample import AxisGrid, covering_axis, input_axis, resample_kji
from .texts import text as _

COARSE_STEP_MM = 4.0
AIR_BELOW_HU = -400.0
#: Median of air around the patient, blankets included; aerated lung is mostly denser.
OUTSIDE_AIR_BELOW_HU = -860.0
#: Less of a piece of air that the image cuts open lies between parts of the body, and it is foam of the table,
#: not lung. Measured: foam 0.00; lung, cut by a small round field of view, 0.17 to 1.
LUNG_BETWEEN_SHARE = 0.1
#: Less aerated lung than this and the box is the whole body (both lungs may be consolidated).
LITTLE_LUNG_ML = 1200.0
#: Less air than this inside the body is no chest at all.
NO_LUNG_ML = 60.0
#: Less tissue than this share of the lungs around them, and there is no body.
LITTLE_BODY_SHARE = 0.1
#: Room around the air-filled lung along k, j, i, towards feet, front, right and head, back, left: lung without
#: air lies mostly at the bases and, in patients on their back, behind the rest. Never beyond the body.
BOX_MARGINS_MM = ((80.0, 40.0), (30.0, 200.0), (30.0, 30.0))
#: The smaller of both sides' air-filled lung, as a share of the larger, below which one lung may be without air.
ONE_SIDED_SHARE = 0.5
#: Air-filled lung narrower than this share of the body: the same, where an arm shifts the middle of the body.
NARROW_SHARE = 0.55


@dataclass(frozen=True)
class Chest:
    """Body and lungs of a volume in patient axes (k to the head, j to the back, i to the left).

    Attributes:
        axes: Coarse grid (k, j, i), in mm from the first voxel's centre.
        inside: (k, j, i) bool on the coarse grid: the patient, lungs included.
        padding_hu: Value of padding that fills part of the image, None if there is none.
        padding: (k, j, i) bool on the coarse grid, where padding meets the patient; None if there is none.
        box_mm: Per axis (k, j, i) the lower and upper end of the region that holds the lungs.
        aerated_ml: Volume of air-filled lung found.
        touches_side: Whether aerated lung reaches the border of the image in-plane (a cropped field of view).
    """

    axes: tuple[AxisGrid, AxisGrid, AxisGrid]
    inside: np.ndarray
    padding_hu: float | None
    padding: np.ndarray | None
    box_mm: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    aerated_ml: float
    touches_side: bool


def find_chest(volume_spl: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> Chest:
    """Return body and lung region of a CT.

    Args:
        volume_spl: (k, j, i) HU along the patient's axes (`Orientation.view`).
        spacing_mm: Spacing along k, j, i.

    Raises:
        InputError: There is no air-filled lung inside a body.
    """
    source = tuple(input_axis(n, s) for n, s in zip(volume_spl.shape, spacing_mm, strict=True))
    axes = tuple(covering_axis(axis, max(COARSE_STEP_MM, axis.step_mm)) for axis in source)
    coarse = resample_kji(volume_spl, source=source, target=axes)  # type: ignore[arg-type]
    voxel_ml = float(np.prod([axis.step_mm for axis in axes])) / 1000.0

    padding_hu = _padding_value(volume_spl)
    padding = np.zeros(coarse.shape, dtype=bool)
    if padding_hu is not None:
        share = resample_kji(volume_spl, source=source, target=axes, convert=lambda plane: plane == padding_hu)  # type: ignore[arg-type]
        padding = _touching_sides(share > 0.2)
    inside, lungs = _body_and_lungs(coarse, padding=padding, voxel_ml=voxel_ml)
    aerated_ml = float(lungs.sum()) * voxel_ml
    if aerated_ml < NO_LUNG_ML:
        raise InputError(
            _(
                "no lungs found: is this a chest CT in HU? Only {aerated_ml:.0f} ml of air-filled lung lies inside "
                "the body. Check the intensity scale (air -1000, water 0) and that the scan covers the chest."
            ).format(aerated_ml=aerated_ml)
        )
    return Chest(
        axes=axes,  # type: ignore[arg-type]
        inside=inside,
        padding_hu=padding_hu,
        padding=_dilate(padding, 1) & _dilate(inside, 1) if padding.any() else None,
        box_mm=_box(lungs, inside=inside, axes=axes, aerated_ml=aerated_ml),  # type: ignore[arg-type]
        aerated_ml=aerated_ml,
        touches_side=_reaches_sides(lungs),
    )


def lungs_found(hu_kji: np.ndarray, geometry: Geometry) -> bool:
    """Tell whether a (k, j, i) volume in HU on a grid shows air-filled lungs inside a body."""
    orientation = Orientation.of(geometry)
    try:
        chest = find_chest(orientation.view(hu_kji), spacing_mm=orientation.spacing_mm(geometry))
    except InputError:
        return False
    return chest.aerated_ml >= LITTLE_LUNG_ML / 4


def _padding_value(volume_spl: np.ndarray) -> float | None:
    """Return the value that fills the corners or borders, if one does: scanners and croppers pad with a constant."""
    values, counts = np.unique(_rim(volume_spl), return_counts=True)
    most = int(np.argmax(counts))
    return float(values[most]) if values[most] <= -900 and counts[most] > 0.3 * counts.sum() else None


def _body_and_lungs(coarse: np.ndarray, *, padding: np.ndarray, voxel_ml: float) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the patient (lungs included) and of the air-filled lungs, on the coarse grid."""
    from scipy import ndimage

    air = (coarse < AIR_BELOW_HU) & ~padding
    # The patient is the largest piece of tissue once thin shells (table, blankets) are opened away.
    tissue = ~air & ~padding
    # Beyond the first and last slice the patient goes on: the border erodes nothing.
    core = _largest(_dilate(ndimage.binary_erosion(tissue, border_value=1), 1))
    body = _dilate(core, 2) & tissue

    pieces, count = _pieces(air)
    border = _dilate(padding, 1)
    border[:, (0, -1)] = border[:, :, (0, -1)] = True
    outer = _outer_air(coarse, air=air, pieces=pieces, count=count, border=border)
    open_lung = np.setdiff1d(np.unique(pieces[border]), [0, *outer])
    between = np.asarray(ndimage.mean(_between(body), pieces, open_lung))
    foam, open_lung = open_lung[between < LUNG_BETWEEN_SHARE], open_lung[between >= LUNG_BETWEEN_SHARE]
    outside = padding | np.isin(pieces, [*outer, *foam])
    filled = _filled(body, outside=outside)
    # Lung cut open by a cropped image is not enclosed by tissue: it is inside all the same.
    inner_air = air & ~outside & (filled | np.isin(pieces, open_lung))
    lungs = _lung_pieces(inner_air, coarse, voxel_ml=voxel_ml)
    if body.sum() < LITTLE_BODY_SHARE * lungs.sum():
        lungs = np.zeros_like(lungs)
    inside = ndimage.binary_closing(filled | lungs, iterations=2) | filled | lungs
    return (inside | _cut_off(tissue & ~body, lungs=lungs)) & ~outside, lungs


def _cut_off(loose: np.ndarray, *, lungs: np.ndarray) -> np.ndarray:
    """Return the pieces of tissue that touch lung, though a cropped image cuts them off from the body.

    Consolidation and a strip of chest wall at the border of the image are the patient; what lies around a patient is
    parted from the lungs by the chest wall.
    """
    from scipy import ndimage

    pieces, _count = ndimage.label(loose)
    touching = np.unique(pieces[_dilate(lungs, 1)])
    return np.isin(pieces, touching[touching > 0])


def _filled(body: np.ndarray, *, outside: np.ndarray) -> np.ndarray:
    """Return the body with the holes of each slice filled; where the image cuts it, its border closes the hole."""
    from scipy import ndimage

    wall = np.zeros(body.shape, dtype=bool)
    wall[:, (0, -1)] = wall[:, :, (0, -1)] = True
    wall &= ~outside & ~body
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body | wall]) & ~wall


def _between(body: np.ndarray) -> np.ndarray:
    """Return the voxels with body on both sides, in front and behind or right and left.

    So lies lung, also where a cropped image cuts it open; the foam of a table lies behind the body.
    """
    found = np.zeros(body.shape, dtype=bool)
    for axis in (1, 2):
        before = np.logical_or.accumulate(body, axis=axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
        found |= before & behind
    return found


def _outer_air(coarse: np.ndarray, *, air: np.ndarray, pieces: np.ndarray, count: int, border: np.ndarray) -> list[int]:
    """Return the pieces of air that lie around the patient.

    Air around the patient has much of its surface on the border of the image; lung cut by a
    cropped image touches it little, or is denser than air.
    """
    from scipy import ndimage

    index = np.arange(1, count + 1)
    surface = air & ~ndimage.binary_erosion(air)
    share = np.asarray(ndimage.sum_labels(surface & border, pieces, index)) / np.maximum(
        np.asarray(ndimage.sum_labels(surface, pieces, index)), 1
    )
    medians = np.asarray(ndimage.median(coarse, pieces, index)) if count else np.zeros(0)
    is_outer = (share > 0.6) | ((share > 0.2) & (medians < OUTSIDE_AIR_BELOW_HU))
    return [int(n) for n in index[is_outer]]


def _lung_pieces(inner_air: np.ndarray, coarse: np.ndarray, *, voxel_ml: float) -> np.ndarray:
    """Return the pieces of air inside the body that look like lung, not like bowel gas, trachea or table."""
    from scipy import ndimage

    labels, count = _pieces(inner_air)
    if count == 0:
        return np.zeros(inner_air.shape, dtype=bool)
    index = np.arange(1, count + 1)
    volumes_ml = np.asarray(ndimage.sum_labels(inner_air, labels, index)) * voxel_ml
    medians = np.asarray(ndimage.median(coarse, labels, index))
    # Noise makes connected pieces as well, but they are lace.
    inner_ml = (
        np.asarray(ndimage.sum_labels(ndimage.binary_erosion(inner_air, border_value=1), labels, index)) * voxel_ml
    )
    large = volumes_ml >= max(15.0, 0.01 * volumes_ml.max())
    keep = index[large & (medians > -975.0) & (inner_ml > 0.03 * volumes_ml)]
    return np.isin(labels, keep)


def _box(
    lungs: np.ndarray, *, inside: np.ndarray, axes: tuple[AxisGrid, ...], aerated_ml: float
) -> tuple[tuple[float, float], ...]:
    """Return the region that holds both lungs, air-filled or not, in mm per axis."""
    in_lung_slices = inside & lungs.any(axis=(1, 2), keepdims=True)
    extents = []
    for axis, grid in enumerate(axes):
        # Along k the body may end anywhere above and below the lungs; across it, arms elsewhere do not count.
        first, last = _range(inside if axis == 0 or aerated_ml < LITTLE_LUNG_ML else in_lung_slices, axis)
        lower_mm, upper_mm = float(grid.centers_mm[first]), float(grid.centers_mm[last])
        if aerated_ml >= LITTLE_LUNG_ML and not (axis == 2 and _one_sided(lungs, first=first, last=last)):
            below_mm, above_mm = BOX_MARGINS_MM[axis]
            first, last = _range(lungs, axis)
            lower_mm = max(lower_mm, float(grid.centers_mm[first]) - below_mm)
            upper_mm = min(upper_mm, float(grid.centers_mm[last]) + above_mm)
        extents.append((lower_mm - grid.step_mm / 2.0, upper_mm + grid.step_mm / 2.0))
    return tuple(extents)


def _one_sided(lungs: np.ndarray, *, first: int, last: int) -> bool:
    """Tell whether a lung may be without air, given the range of the body along i."""
    per_column = lungs.sum(axis=(0, 1))
    middle = (first + last + 1) // 2
    right, left = int(per_column[:middle].sum()), int(per_column[middle:].sum())
    lung_first, lung_last = _range(lungs, 2)
    is_narrow = lung_last - lung_first < NARROW_SHARE * (last - first)
    return is_narrow or min(right, left) < ONE_SIDED_SHARE * max(right, left)


def _pieces(air: np.ndarray) -> tuple[np.ndarray, int]:
    """Return connected pieces of air, numbered from 1; bridges of one or two voxels do not connect.

    On this grid a thin chest wall (armpit, lean patient) can leak, and would join lung to outside air.
    """
    from scipy import ndimage

    labels, count = ndimage.label(ndimage.binary_erosion(air, border_value=1))
    for _step in range(2):
        grown = ndimage.grey_dilation(labels, size=3)
        labels = np.where((labels == 0) & air, grown, labels)
    rest, more = ndimage.label(air & (labels == 0))
    return np.where(rest > 0, rest + count, labels), count + more


def _range(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """Return the first and last index along `axis` at which the mask is set; the whole axis if it is empty."""
    used = np.flatnonzero(np.any(mask, axis=tuple(n for n in range(3) if n != axis)))
    return (int(used[0]), int(used[-1])) if used.size else (0, mask.shape[axis] - 1)


def _largest(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def _dilate(mask: np.ndarray, iterations: int) -> np.ndarray:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, iterations=iterations))


def _touching_sides(mask: np.ndarray) -> np.ndarray:
    """Return the pieces of `mask` that reach the in-plane border of the image."""
    from scipy import ndimage

    labels, _count = ndimage.label(mask)
    rim = _rim(labels)
    return np.isin(labels, np.unique(rim[rim > 0]))


def _reaches_sides(mask: np.ndarray) -> bool:
    return bool(_rim(mask).any())


def _rim(volume: np.ndarray) -> np.ndarray:
    """Return the voxels on the in-plane border of every slice."""
    return np.concatenate(
        [volume[:, 0].ravel(), volume[:, -1].ravel(), volume[:, :, 0].ravel(), volume[:, :, -1].ravel()]
    )
