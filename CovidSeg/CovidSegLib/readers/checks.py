"""Checks that an image can be a chest CT: size, spacing, straight axes, values.

The limits are deliberately wide: they catch wrong units, wrong files and broken headers, not unusual scanners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..texts import text as _

MIN_SLICES = 8
#: How far a slice may lie from its place, by shear, tilt or uneven spacing, as a share of the slice spacing.
GRID_TOLERANCE = 0.01
#: Pixels above 6 mm blur the chest wall so much that air inside the body cannot be told from air around it.
IN_PLANE_SPACING_MM = (0.1, 6.0)
SLICE_SPACING_MM = (0.1, 20.0)
#: Longer than any patient or table.
MAX_EXTENT_MM = 2500.0
#: From this slice spacing on, the report warns.
THICK_SLICES_MM = 5.0
#: Above this pixel spacing the report warns. Measured on one CT made coarser: POI came out 1.6 points too high with
#: pixels of 4 mm one way, 4.5 points with 4.5 mm both ways.
COARSE_PIXELS_MM = 3.0
#: No value beyond this is in Hounsfield units; padding and metal stay far below.
MAX_ABS_HU = 1e6
NO_ORIENTATION = _("The file states no orientation: left and right are a guess. Check the sides.")
NO_SPACING = _("The file states no voxel spacing: 1 mm is taken, and volumes are a guess. Check the spacing.")
NO_HU = _("{label}: values from {low:g} to {high:g} are no Hounsfield units. Give a CT in HU.")
#: An image of whole numbers with no more distinct values than this is a labelmap.
_MAX_LABELS = 16
#: So is one in which more than this share of the voxels other than 0 equal the voxel before them in their row.
_PATCH_SHARE = 0.9


@dataclass(frozen=True)
class ImageData:
    """An image as a reader returns it: (k, j, i) int16 or float32, its grid, and what the user should know."""

    values_kji: np.ndarray
    geometry: Geometry
    warnings: tuple[str, ...] = ()
    series: str | None = None


def check_size(size: tuple[int, ...], *, label: str) -> tuple[int, int, int]:
    """Return the size of a 3D volume, trailing axes of length 1 dropped.

    Raises:
        InputError: Not 3D, or fewer than 8 slices along an axis.
    """
    if any(int(n) < 1 for n in size):
        text = _("{label}: the header states a size of {size}; the file is corrupt. Export it again.")
        raise InputError(text.format(label=label, size=_times(size)))
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) > 3:
        text = _("{label}: the image is {count}D ({size}), a CT is 3D. Save one time point or channel of it.")
        raise InputError(text.format(label=label, count=len(size), size=_times(size)))
    if len(size) < 3 or min(size) == 1:
        text = _("{label}: a 2D image ({size}). Give the whole CT, at least {least} slices.")
        raise InputError(text.format(label=label, size=_times(size), least=MIN_SLICES))
    if min(size) < MIN_SLICES:
        text = _("{label}: only {count} slices ({size}); at least {least} are needed. Give the whole CT.")
        raise InputError(text.format(label=label, count=min(size), size=_times(size), least=MIN_SLICES))
    return (int(size[0]), int(size[1]), int(size[2]))


def check_geometry(geometry: Geometry, *, label: str) -> None:
    """Check spacing, extent and axes of a grid.

    Raises:
        InputError: Spacing or extent zero, not finite or absurd, or axes sheared beyond 1 % of the slice spacing.
    """
    if not np.all(np.isfinite((*geometry.spacing_ijk_mm, *geometry.origin_lps_mm))):
        text = _("{label}: position or spacing in the header is zero or not a number. Export the CT again.")
        raise InputError(text.format(label=label))
    check_straight_axes(geometry.direction_matrix, label=label)
    slice_axis = _slice_axis(geometry)
    for axis, spacing in enumerate(geometry.spacing_ijk_mm):
        low, high = SLICE_SPACING_MM if axis == slice_axis else IN_PLANE_SPACING_MM
        if not low <= spacing <= high:
            kind = _("slice spacing") if axis == slice_axis else _("pixel spacing")
            text = _(
                "{label}: a {kind} of {spacing:g} mm (axis {axis}) is not plausible for a chest CT "
                "({low:g} to {high:g} mm). Correct the header, or export the CT again."
            )
            values = {"kind": kind, "spacing": spacing, "axis": "ijk"[axis], "low": low, "high": high}
            raise InputError(text.format(label=label, **values))
        extent_mm = spacing * geometry.size_ijk[axis]
        if extent_mm > MAX_EXTENT_MM:
            text = _(
                "{label}: the image is {length:.0f} mm long along axis {axis}, longer than a patient. "
                "Correct the spacing in the header, or export the CT again."
            )
            raise InputError(text.format(label=label, length=extent_mm, axis="ijk"[axis]))


def check_straight_axes(columns: np.ndarray, *, label: str) -> None:
    """Check that axes (the columns of a 3x3 matrix, any length) are perpendicular to 1 %.

    Raises:
        InputError: Two axes are sheared against each other, or do not span space.
    """
    lengths = np.linalg.norm(columns, axis=0)
    if not np.all(np.isfinite(columns)) or np.any(lengths == 0):
        text = _("{label}: the axes in the header are zero or not numbers. Export the CT again.")
        raise InputError(text.format(label=label))
    unit = columns / lengths
    for a, b in ((0, 2), (1, 2), (0, 1)):
        cosine = float(abs(unit[:, a] @ unit[:, b]))
        # The tangent of the tilt: the sideways shift per slice, as a share of the slice spacing.
        shear = cosine / max(float(np.sqrt(max(1.0 - cosine**2, 0.0))), 1e-9)
        if shear > GRID_TOLERANCE:
            text = _(
                "{label}: axes {first} and {second} are sheared (gantry tilt?): from slice 2 on, each slice lies "
                "{shear:.1f} % of the spacing aside of the one before, {allowed:.0f} % is allowed. "
                "Resample the CT to a straight grid first (in Slicer: Acquisition geometry regularization)."
            )
            values = {"shear": min(100 * shear, 1e4), "allowed": 100 * GRID_TOLERANCE}
            raise InputError(text.format(label=label, first="ijk"[a], second="ijk"[b], **values))


def check_values(values_kji: np.ndarray, *, label: str) -> None:
    """Check that finite values can be a CT's.

    Args:
        values_kji: (k, j, i), int16 or float32, finite.
        label: The file or folder, for the message.

    Raises:
        InputError: Constant, absurdly large, or a labelmap.
    """
    low, high = float(values_kji.min()), float(values_kji.max())
    if low == high:
        text = _("{label}: every voxel is {value:g}; the image is empty. Export the CT again.")
        raise InputError(text.format(label=label, value=low))
    if max(-low, high) > MAX_ABS_HU:
        raise InputError(NO_HU.format(label=label, low=low, high=high))
    if low >= 0 and high <= 255 and _is_labelmap(values_kji):
        text = _(
            "{label}: this looks like a labelmap (whole numbers from {low:g} to {high:g}, in patches), not a CT. "
            "Give the CT it belongs to."
        )
        raise InputError(text.format(label=label, low=low, high=high))


def spacing_warnings(geometry: Geometry) -> tuple[str, ...]:
    """Return warnings if slices are thick (small lesions are missed) or pixels coarse (edges look like lesions)."""
    return (*_thick_slices(geometry), *_coarse_pixels(geometry))


def _thick_slices(geometry: Geometry) -> tuple[str, ...]:
    axis = int(np.argmax(geometry.spacing_ijk_mm))  # whichever way the patient was scanned
    spacing_mm, slices = geometry.spacing_ijk_mm[axis], geometry.size_ijk[axis]
    if spacing_mm < THICK_SLICES_MM:
        return ()
    text = _(
        "Thick slices: {count} slices, {spacing:.1f} mm apart ({length:.0f} mm in all). "
        "Small lesions can be missed, and volumes are approximate."
    )
    return (text.format(count=slices, spacing=spacing_mm, length=slices * spacing_mm),)


def _coarse_pixels(geometry: Geometry) -> tuple[str, ...]:
    """Return a warning if voxels are long across the body: coarse pixels, thick sagittal or coronal slices."""
    slice_axis = _slice_axis(geometry)
    spacing_mm = max(spacing for axis, spacing in enumerate(geometry.spacing_ijk_mm) if axis != slice_axis)
    if spacing_mm <= COARSE_PIXELS_MM:
        return ()
    text = _(
        "Voxels of {spacing:.1f} mm across the body: blurred edges look like infection, so that POI can be several "
        "points too high. Give fine axial slices if there are any."
    )
    return (text.format(spacing=spacing_mm),)


def _slice_axis(geometry: Geometry) -> int:
    """Return the axis (0 i, 1 j, 2 k) nearest to the patient's head-foot axis."""
    return int(np.argmax(np.abs(geometry.direction_matrix[2])))


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)


def _is_labelmap(values_kji: np.ndarray) -> bool:
    """Tell whether an image of values in 0..255 holds labels: whole numbers, few of them or in large patches.

    In a grey image noise makes neighbours in the body differ. Zeros are not counted: the air of grey images is 0, too.
    """
    if values_kji.dtype.kind == "f" and not np.array_equal(np.rint(values_kji), values_kji):
        return False
    found = np.zeros(256, dtype=bool)
    for values_ji in values_kji:  # a slice at a time: as indices, values take up to eight times their memory
        found[values_ji.astype(np.uint8)] = True
    if np.count_nonzero(found) <= _MAX_LABELS:
        return True
    inside = values_kji[..., 1:] != 0
    same = (values_kji[..., 1:] == values_kji[..., :-1]) & inside
    return bool(int(np.count_nonzero(same)) > _PATCH_SHARE * max(int(np.count_nonzero(inside)), 1))
