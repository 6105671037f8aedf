"""A picture of a case for people: CT slices with the lungs outlined and the infection in red.

Made of numpy and SimpleITK's PNG writer only; equal input gives equal bytes. Nothing in it
identifies a patient.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..anatomy.nearest_lung import whole_lungs_labelmap
from ..geometry import Geometry
from ..labels import SEGMENTS, Label
from .preview_slices import Plane, preview_planes

WIDTH = 1200
GAP = 4
WINDOW_HU, LEVEL_HU = 1500.0, -600.0
INFECTION_OPACITY = 0.4

_COLORS = {segment.label: np.array(segment.color_rgb, dtype=np.float32) * 255.0 for segment in SEGMENTS}
_GLYPH_PIXELS = 3
_GLYPHS = {
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "A": ("01110", "10001", "10001", "11111", "10001", "10001", "10001"),
    "P": ("11110", "10001", "10001", "11110", "10000", "10000", "10000"),
}


def write_preview_png(path: str | Path, *, hu_kji: np.ndarray, labelmap_kji: np.ndarray, geometry: Geometry) -> None:
    """Write the preview as PNG, 1200 pixels wide and as high as the slices need.

    First row: four axial slices from apex to base, among them the one with most infection.
    Second row: a coronal slice, a sagittal one of the right and one of the left lung.

    Args:
        path: File to write, replaced if it exists; the name ends in ``.png``.
        hu_kji: (k, j, i) CT in HU.
        labelmap_kji: (k, j, i) integers, values as in `Label`.
        geometry: Grid of both; any direction is shown in radiological convention.

    Raises:
        ValueError: An array does not have the grid's shape.
    """
    import SimpleITK as sitk

    picture = preview_rgb(hu_kji, labelmap_kji=labelmap_kji, geometry=geometry)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(path), useCompression=True)


def preview_rgb(hu_kji: np.ndarray, *, labelmap_kji: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the preview as (rows, columns, 3) uint8; arguments and errors as in `write_preview_png`."""
    for name, array in (("CT", hu_kji), ("labelmap", labelmap_kji)):
        if array.shape != geometry.shape_kji:
            raise ValueError(f"{name} has shape {array.shape}, expected {geometry.shape_kji} (k, j, i)")
    rows = preview_planes(hu_kji, labelmap_kji=labelmap_kji, geometry=geometry)
    pictures = [_row(planes) for planes in rows]
    gap = np.zeros((GAP, WIDTH, 3), dtype=np.uint8)
    return np.concatenate([pictures[0], gap, pictures[1]])


def _row(planes: list[Plane]) -> np.ndarray:
    """Return planes side by side in panels of equal size, as wide as the picture.

    One scale holds for the row, so that sizes can be compared; panels are as high as needed.
    """
    width = (WIDTH - GAP * (len(planes) - 1)) // len(planes)
    extents_mm = [np.array(plane.hu.shape) * plane.spacing_mm for plane in planes]
    mm_per_pixel = max(extent[1] for extent in extents_mm) / width
    mm_per_pixel = max(mm_per_pixel, max(extent[0] for extent in extents_mm) / (1.2 * width))
    height = max(1, round(max(extent[0] for extent in extents_mm) / mm_per_pixel))
    row = np.zeros((height, WIDTH, 3), dtype=np.uint8)
    for number, plane in enumerate(planes):
        start = number * (width + GAP)
        row[:, start : start + width] = preview_panel(plane, shape=(height, width), mm_per_pixel=mm_per_pixel)
    return row


def preview_panel(plane: Plane, *, shape: tuple[int, int], mm_per_pixel: float) -> np.ndarray:
    """Return one slice in the middle of a panel, (rows, columns, 3) uint8."""
    rows, columns = (
        _sampling(count, step_mm, pixels, mm_per_pixel)
        for count, step_mm, pixels in zip(plane.hu.shape, plane.spacing_mm, shape, strict=True)
    )
    hu = _sampled(plane.hu, rows, columns)
    shown = np.logical_and.outer(rows.shown, columns.shown)
    grey = np.clip((hu - (LEVEL_HU - WINDOW_HU / 2.0)) * (255.0 / WINDOW_HU), 0.0, 255.0)
    rgb = np.repeat(grey[..., np.newaxis], 3, axis=2)
    infection = _sampled(plane.labels == Label.INFECTION, rows, columns) > 0.5
    rgb[infection] = (1.0 - INFECTION_OPACITY) * rgb[infection] + INFECTION_OPACITY * _COLORS[Label.INFECTION]
    whole_lungs = _whole_lungs(plane)
    left = _sampled(whole_lungs == Label.LEFT_LUNG, rows, columns)
    right = _sampled(whole_lungs == Label.RIGHT_LUNG, rows, columns)
    # One outline around both lungs: none is drawn where they touch, or across an infection.
    edge = _outline((left + right > 0.5) & shown)
    rgb[edge & (left >= right)] = _COLORS[Label.LEFT_LUNG]
    rgb[edge & (left < right)] = _COLORS[Label.RIGHT_LUNG]
    rgb[_outline(infection & shown)] = _COLORS[Label.INFECTION]
    rgb[~shown] = 0.0
    _stamp(rgb, plane.marks[0], column=8)
    _stamp(rgb, plane.marks[1], column=shape[1] - 8 - 5 * _GLYPH_PIXELS)
    return np.rint(rgb).astype(np.uint8)


def _whole_lungs(plane: Plane) -> np.ndarray:
    """Return the lungs of a slice including their infection; within the slice the nearer lung has it."""
    rows_mm, columns_mm = plane.spacing_mm
    grid = Geometry((plane.labels.shape[1], plane.labels.shape[0], 1), (columns_mm, rows_mm, 1.0))
    return whole_lungs_labelmap(plane.labels[np.newaxis], geometry=grid)[0]


class _Sampling(NamedTuple):
    """Per pixel along an axis: the voxel before it, the weight of the next one, and whether it shows the volume."""

    before: np.ndarray
    weight: np.ndarray
    shown: np.ndarray


def _sampling(count: int, step_mm: float, pixels: int, mm_per_pixel: float) -> _Sampling:
    position = ((np.arange(pixels) - (pixels - 1) / 2.0) * mm_per_pixel) / step_mm + (count - 1) / 2.0
    shown = (position >= -0.5) & (position <= count - 0.5)
    position = np.clip(position, 0.0, count - 1.0)
    before = np.minimum(position.astype(int), max(count - 2, 0))
    return _Sampling(before, (position - before).astype(np.float32), shown)


def _sampled(plane: np.ndarray, rows: _Sampling, columns: _Sampling) -> np.ndarray:
    """Return the slice at the panel's pixels, float32, linear between voxels."""
    values = plane.astype(np.float32)
    after_row = np.minimum(rows.before + 1, plane.shape[0] - 1)
    after_column = np.minimum(columns.before + 1, plane.shape[1] - 1)
    values = values[rows.before] + rows.weight[:, np.newaxis] * (values[after_row] - values[rows.before])
    first = values[:, columns.before]
    return first + columns.weight * (values[:, after_column] - first)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask that have a neighbour outside of it, up, down, left or right."""
    framed = np.pad(mask, 1)
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~inner


def _stamp(rgb: np.ndarray, letter: str, *, column: int) -> None:
    """Draw a letter in white on black at mid-height, in place; nothing if the panel is too small."""
    bits = np.array([[bit == "1" for bit in line] for line in _GLYPHS[letter]])
    large = np.kron(np.pad(bits, 1), np.ones((_GLYPH_PIXELS, _GLYPH_PIXELS), dtype=bool))
    top, left = (rgb.shape[0] - large.shape[0]) // 2, column - _GLYPH_PIXELS
    if top < 0 or left < 0 or left + large.shape[1] > rgb.shape[1]:
        return
    rgb[top : top + large.shape[0], left : left + large.shape[1]] = large[..., np.newaxis] * 255.0
