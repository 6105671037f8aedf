"""From the slices of one DICOM series to a volume: order, straightness and evenness of slices, pixels in HU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..runtime import cores
from ..texts import Text
from ..texts import text as _
from .checks import GRID_TOLERANCE, ImageData, check_geometry, check_size
from .dicom import Stack
from .dicom_frames import FrameHeader, frame_values
from .dicom_header import SliceHeader, with_gdcm
from .memory import require_memory
from .pixels import HuBuilder
from .sitk_quiet import itk_reason, quiet_itk

#: Reconstructions narrower than this cut the chest of most adults.
NARROW_FIELD_MM = 250.0
_DUPLICATE_MM = 1e-3
_MAX_THREADS = 8


def read_stack(stack: Stack, *, label: str) -> ImageData:
    """Return the volume of a series, slices sorted along their normal (feet to head for axial ones).

    Raises:
        InputError: Slices missing, duplicated, uneven, tilted, of different size or orientation, without the others'
            rescale, or undecodable.
    """
    slices, geometry = stack_geometry(stack.slices, label=label)
    _check_rescaled(slices, label=label)
    check_geometry(geometry, label=label)
    # What DICOM CTs become nearly always; their headers, as kept here, do not tell a rescale to fractions.
    require_memory(geometry.size_ijk, dtype=np.dtype(np.int16), label=label)
    builder = HuBuilder(geometry.shape_kji, label=label)

    def decode(k: int) -> None:
        if not isinstance(slices[k], FrameHeader):
            builder.set_slice(k, _decode(slices[k], label=label))

    with quiet_itk(), ThreadPoolExecutor(min(cores(), _MAX_THREADS)) as pool:
        list(pool.map(decode, range(len(slices))))  # raises what a thread raised
    frames = [(k, s) for k, s in enumerate(slices) if isinstance(s, FrameHeader)]
    for k, values_ji in frame_values(frames, label=label):
        builder.set_slice(k, values_ji)
    return ImageData(
        values_kji=builder.result(),
        geometry=geometry,
        warnings=_warnings(slices, copies=stack.copies),
        series=f"{'-' if stack.info.number is None else stack.info.number}: {stack.info.description}".strip(),
    )


def stack_geometry(slices: tuple[SliceHeader, ...], *, label: str) -> tuple[list[SliceHeader], Geometry]:
    """Return the slices in order and the grid they form.

    The third axis is the slices' normal, so the grid is right-handed; its spacing is the mean distance.

    Raises:
        InputError: The slices form no straight, even grid (beyond 1 % of the slice spacing); names the slice.
    """
    check_size((slices[0].columns, slices[0].rows, len(slices)), label=label)
    row, column, spacing_ji = _common_frame(slices, label=label)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    ordered = sorted(slices, key=lambda s: (float(normal @ np.asarray(s.position_lps_mm)), s.path.name))
    positions = np.array([s.position_lps_mm for s in ordered], dtype=np.float64)
    spacing_k = _check_steps(ordered, positions, normal=normal, label=label)
    geometry = Geometry(
        size_ijk=(slices[0].columns, slices[0].rows, len(slices)),
        spacing_ijk_mm=(spacing_ji[1], spacing_ji[0], spacing_k),
        origin_lps_mm=(float(positions[0, 0]), float(positions[0, 1]), float(positions[0, 2])),
        direction_lps=tuple(float(v) for v in np.stack([row, column, normal], axis=1).ravel()),
    )
    return ordered, geometry


def _common_frame(slices: tuple[SliceHeader, ...], *, label: str) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Return unit row and column vectors and the pixel spacing, which all slices share."""
    for s in slices:
        if s.position_lps_mm is None or s.orientation_lps is None or s.pixel_spacing_mm is None:
            text = _("{label}: slice {slice} lacks position or pixel spacing. Export the series again.")
            raise InputError(text.format(label=label, slice=s.name))
    orientations = np.array([s.orientation_lps for s in slices], dtype=np.float64)
    spacings = np.array([s.pixel_spacing_mm for s in slices], dtype=np.float64)
    usual, spacing = np.median(orientations, axis=0), np.median(spacings, axis=0)
    turned = np.abs(orientations - usual).max(axis=1)
    if turned.max() > GRID_TOLERANCE:
        name = slices[int(np.argmax(turned))].name
        text = _("{label}: slice {slice} is turned against the others. Export one acquisition only.")
        raise InputError(text.format(label=label, slice=name))
    rescaled = np.abs(spacings - spacing).max(axis=1)
    if rescaled.max() > 1e-4 * max(float(spacing.max()), 1e-4):
        name = slices[int(np.argmax(rescaled))].name
        text = _("{label}: slice {slice} has another pixel spacing than the others. Export one series only.")
        raise InputError(text.format(label=label, slice=name))
    lengths = np.linalg.norm(usual.reshape(2, 3), axis=1)
    if np.any(np.abs(lengths - 1.0) > GRID_TOLERANCE):
        text = _("{label}: the slice orientation in the header is no direction. Export the series again.")
        raise InputError(text.format(label=label))
    row, column = usual[:3] / lengths[0], usual[3:] / lengths[1]
    if abs(row @ column) > GRID_TOLERANCE:
        text = _("{label}: rows and columns of the slices are not perpendicular. Export the series again.")
        raise InputError(text.format(label=label))
    return row, column, (float(spacing[0]), float(spacing[1]))


def _check_steps(slices: list[SliceHeader], positions: np.ndarray, *, normal: np.ndarray, label: str) -> float:
    """Return the mean slice distance after checking every step for duplicates, gaps, unevenness and tilt."""
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    k = int(np.argmin(gaps))
    if gaps[k] <= _DUPLICATE_MM:
        text = _(
            "{label}: two slices at one position: {first} and {second}. "
            "Keep one acquisition (one phase, one kernel) of the series."
        )
        raise InputError(text.format(label=label, first=slices[k].name, second=slices[k + 1].name))
    usual = float(np.median(gaps))
    uneven = np.abs(gaps - usual) > GRID_TOLERANCE * usual + 1e-6
    if uneven.any():
        raise InputError(_uneven_text(slices, gaps, k=int(np.argmax(uneven)), usual=usual, label=label))
    sideways = np.linalg.norm(steps - np.outer(gaps, normal), axis=1)
    tilted = sideways > GRID_TOLERANCE * usual + 1e-6
    if tilted.any():
        k = int(np.argmax(tilted))
        text = _(
            "{label}: the slices are sheared (gantry tilt?): slice {slice} lies {aside:.3g} mm "
            "aside of the one before, {allowed:.3g} mm is allowed. Resample the CT to a straight grid "
            "first (in Slicer: DICOM module, Acquisition geometry regularization)."
        )
        values = {"slice": slices[k + 1].name, "aside": sideways[k], "allowed": GRID_TOLERANCE * usual}
        raise InputError(text.format(label=label, **values))
    return float(gaps.mean())


def _uneven_text(slices: list[SliceHeader], gaps: np.ndarray, *, k: int, usual: float, label: str) -> Text:
    values = {"before": slices[k].name, "after": slices[k + 1].name, "gap": gaps[k], "usual": usual}
    count = round(float(gaps[k]) / usual) - 1
    if count >= 1 and abs(gaps[k] - (count + 1) * usual) <= 0.1 * usual:
        text = _(
            "{label}: {count} slice(s) missing between {before} and {after}: {gap:.3g} mm instead of {usual:.3g} mm "
            "apart. Copy or export the whole series again."
        )
        return text.format(label=label, count=count, **values)
    text = _(
        "{label}: the slices are unevenly spaced: {after} lies {gap:.4g} mm from {before}, the others {usual:.4g} mm "
        "apart. Export one acquisition only, or resample the CT to even slices."
    )
    return text.format(label=label, **values)


def _check_rescaled(slices: list[SliceHeader], *, label: str) -> None:
    """Make sure that all single slices state an intercept, or none: one without it would be read 1024 HU too high."""
    single = [s for s in slices if not isinstance(s, FrameHeader)]
    missing = [s for s in single if not s.rescaled]
    if 0 < len(missing) < len(single):
        text = _("{label}: slice {slice} lacks the rescale intercept that others state. Export the series again.")
        raise InputError(text.format(label=label, slice=missing[0].name))


def _decode(header: SliceHeader, *, label: str) -> np.ndarray:
    """Return (j, i) values after the slice's own rescale slope and intercept (they may differ between slices)."""
    import SimpleITK as sitk

    try:
        values = with_gdcm(header.path, read=lambda reader: sitk.GetArrayFromImage(reader.Execute()))
    except RuntimeError as error:
        text = _("{label}: slice {slice} cannot be decoded ({reason}). Copy or export the series again.")
        raise InputError(text.format(label=label, slice=header.name, reason=itk_reason(error))) from error
    if values.size != header.rows * header.columns:
        text = _("{label}: slice {slice} is not one grey image. Copy or export the series again.")
        raise InputError(text.format(label=label, slice=header.name))
    return np.asarray(values.reshape(header.rows, header.columns))


def _warnings(slices: list[SliceHeader], *, copies: int) -> tuple[Text, ...]:
    found: list[Text] = []
    if copies:
        found.append(_("{count} slice(s) were exact copies of others and were left out.").format(count=copies))
    agents = {s.contrast for s in slices if s.contrast and s.contrast.upper() not in ("NO", "NONE", "N", "0")}
    if agents:
        found.append(
            _("Contrast agent was given: vessels are bright, and small infections beside them are less certain.")
        )
    diameter = slices[0].reconstruction_diameter_mm
    if diameter is not None and 0 < diameter < NARROW_FIELD_MM:
        text = _("Narrow field of view ({diameter:.0f} mm): parts of the lungs may be cut off.")
        found.append(text.format(diameter=diameter))
    if any(s.lossy for s in slices):
        found.append(_("The images were compressed with loss: HU are approximate."))
    return tuple(found)
