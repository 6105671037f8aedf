"""Find body and lungs cheaply, on a 4 mm grid: what is inside the patient, and where the chest lies.

The result decides only where the network looks and what it is shown as "outside"; no voxel is
labelled by it. So it must not lose lung without air, which cannot be seen here: the box leaves
room around the air-filled lung where consolidation gathers (bases, back), spans the body's whole
width if one lung may be without air, and the whole body if little air is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..orient import Orientation
from ..resample import Axes, AxisGrid, covering_axis, image_axes, resample_kji
from ..texts import text as _
from .chest_masks import body_and_lungs, dilate, padding_value, rim, touching_sides

#: Voxel size of the coarse grid.
COARSE_STEP_MM = 4.0
#: Longest voxels across the body that are interpolated to it, see `_coarse_axes`.
LONGEST_ACROSS_MM = 6.0
#: With less air-filled lung than this the box is the whole body: both lungs may be consolidated.
LITTLE_LUNG_ML = 1200.0
#: With less air than this inside the body there is no chest.
NO_LUNG_ML = 60.0
#: A guessed intensity scale is accepted from this volume of air-filled lung on; more than a CT in HU has to show.
SURE_LUNG_ML = 300.0
#: A coarse voxel with more than this share of padding counts as padding.
PADDED_SHARE = 0.2
#: Room around the air-filled lung, never beyond the body, along k (feet, head), j (front, back) and i (right, left):
#: lung without air lies mostly at the bases and, in patients on their back, behind the rest.
BOX_MARGINS_MM = ((80.0, 40.0), (30.0, 200.0), (30.0, 30.0))
#: One lung may be without air if either half of the body holds less air-filled lung than this share of the other's...
ONE_SIDED_SHARE = 0.5
#: ... or if air-filled lung is narrower than this share of the body: an arm may have shifted the body's middle.
NARROW_SHARE = 0.55


@dataclass(frozen=True)
class Chest:
    """Body and lungs of a volume in patient axes (k to the head, j to the back, i to the left).

    Attributes:
        axes: Coarse grid (k, j, i), in mm from the centre of the CT's first voxel.
        inside: (k, j, i) bool on the coarse grid: the patient, lungs included.
        padding_hu: The value with which the image is padded, None if it is not.
        padding: (k, j, i) bool on the coarse grid: where padding meets the patient; None without padding.
        box_mm: Per axis (k, j, i) the lower and upper end of the region that holds the lungs.
        aerated_ml: Volume of air-filled lung found.
        touches_side: Whether aerated lung reaches the border of the image in-plane (a cropped field of view).
        touches_padding: Whether aerated lung reaches padding, e.g. around a small round field of view.
    """

    axes: Axes
    inside: np.ndarray
    padding_hu: float | None
    padding: np.ndarray | None
    box_mm: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    aerated_ml: float
    touches_side: bool
    touches_padding: bool


def find_chest(volume_spl: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> Chest:
    """Return body and lungs of a CT.

    Args:
        volume_spl: (k, j, i) HU along the patient's axes (`Orientation.view`).
        spacing_mm: Spacing along k, j, i.

    Raises:
        InputError: There is no air-filled lung inside a body.
    """
    source = image_axes(volume_spl.shape, spacing_kji_mm=spacing_mm)
    axes = _coarse_axes(source)
    coarse = resample_kji(volume_spl, source=source, target=axes)
    voxel_ml = float(np.prod([axis.step_mm for axis in axes])) / 1000.0

    padding_hu = padding_value(volume_spl)
    padding = np.zeros(coarse.shape, dtype=bool)
    if padding_hu is not None:
        share = resample_kji(volume_spl, source=source, target=axes, convert=lambda plane: plane == padding_hu)
        padding = touching_sides(share > PADDED_SHARE)
    inside, lungs = body_and_lungs(coarse, padding=padding, voxel_ml=voxel_ml)
    aerated_ml = float(lungs.sum()) * voxel_ml
    if aerated_ml < NO_LUNG_ML:
        raise InputError(
            _(
                "no lungs found: is this a chest CT in HU? Only {aerated_ml:.0f} ml of air-filled lung lies inside "
                "the body. Check the intensity scale (air -1000, water 0) and that the scan covers the chest."
            ).format(aerated_ml=aerated_ml)
        )
    return Chest(
        axes=axes,
        inside=inside,
        padding_hu=padding_hu,
        padding=dilate(padding, 1) & dilate(inside, 1) if padding.any() else None,
        box_mm=_box(lungs, inside=inside, axes=axes, aerated_ml=aerated_ml),  # type: ignore[arg-type]
        aerated_ml=aerated_ml,
        touches_side=bool(rim(lungs).any()),
        touches_padding=bool((dilate(padding, 1) & lungs).any()),
    )


def _coarse_axes(source: Axes) -> Axes:
    """Return the coarse grid for a CT; along k its voxels are never shorter than the CT's.

    Across the body voxels up to `LONGEST_ACROSS_MM` are interpolated to the coarse step, since the masks need steps
    that small to follow a thin chest wall. Longer ones have blurred it too much, and keep their length.
    """

    def across(axis: AxisGrid) -> AxisGrid:
        return covering_axis(axis, COARSE_STEP_MM if axis.step_mm <= LONGEST_ACROSS_MM else axis.step_mm)

    k, j, i = source
    return (covering_axis(k, max(COARSE_STEP_MM, k.step_mm)), across(j), across(i))


def chest_in(hu_kji: np.ndarray, *, geometry: Geometry) -> Chest | None:
    """Return body and lungs of a CT (k, j, i) in HU on its own grid; None if no air-filled lung is found."""
    orientation = Orientation.of(geometry)
    try:
        return find_chest(orientation.view(hu_kji), spacing_mm=orientation.spacing_mm(geometry))
    except InputError:
        return None


def lungs_found(hu_kji: np.ndarray, geometry: Geometry) -> bool:
    """Tell whether (k, j, i) HU show enough air-filled lung inside a body for a guessed scale to be accepted."""
    chest = chest_in(hu_kji, geometry=geometry)
    return chest is not None and chest.aerated_ml >= SURE_LUNG_ML


def _box(
    lungs: np.ndarray, *, inside: np.ndarray, axes: tuple[AxisGrid, ...], aerated_ml: float
) -> tuple[tuple[float, float], ...]:
    """Return the region that holds both lungs, air-filled or not, in mm per axis."""
    shows_little_lung = aerated_ml < LITTLE_LUNG_ML
    in_lung_slices = inside & lungs.any(axis=(1, 2), keepdims=True)
    extents = []
    for axis, grid in enumerate(axes):
        # Across the body only the lungs' slices count, so that arms above or below them do not widen the box.
        first, last = _range(inside if axis == 0 or shows_little_lung else in_lung_slices, axis)
        lower_mm, upper_mm = float(grid.centers_mm[first]), float(grid.centers_mm[last])
        spans_body = shows_little_lung or (axis == 2 and _one_sided(lungs, first=first, last=last))
        if not spans_body:
            below_mm, above_mm = BOX_MARGINS_MM[axis]
            first, last = _range(lungs, axis)
            lower_mm = max(lower_mm, float(grid.centers_mm[first]) - below_mm)
            upper_mm = min(upper_mm, float(grid.centers_mm[last]) + above_mm)
        extents.append((lower_mm - grid.step_mm / 2.0, upper_mm + grid.step_mm / 2.0))
    return tuple(extents)


def _one_sided(lungs: np.ndarray, *, first: int, last: int) -> bool:
    """Tell whether one lung may be without air, given the body's first and last voxel along i."""
    per_column = lungs.sum(axis=(0, 1))
    middle = (first + last + 1) // 2
    right, left = int(per_column[:middle].sum()), int(per_column[middle:].sum())
    lung_first, lung_last = _range(lungs, 2)
    is_narrow = lung_last - lung_first < NARROW_SHARE * (last - first)
    return is_narrow or min(right, left) < ONE_SIDED_SHARE * max(right, left)


def _range(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """Return the first and last index along `axis` at which the mask is set; the whole axis if it is empty."""
    used = np.flatnonzero(np.any(mask, axis=tuple(n for n in range(3) if n != axis)))
    return (int(used[0]), int(used[-1])) if used.size else (0, mask.shape[axis] - 1)
