"""Separable resampling between voxel grids that share their axes: exact positions, bounded memory.

A grid is one `AxisGrid` per axis, and resampling takes one small weight matrix per axis.
Downsampling widens the linear kernel to the spacing of the target (anti-aliasing), which the
paper's code did not: sharp and soft reconstruction kernels, and noisy scans, then look alike
to the network. Upsampling is linear or, for the image that the network sees, cubic as in the
paper: between thick slices, linear interpolation would add to the blur of their thickness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Upsampling = Literal["linear", "cubic"]


@dataclass(frozen=True)
class AxisGrid:
    """Evenly spaced voxel centres along one axis: `first_mm + n * step_mm`, n in 0..count-1."""

    first_mm: float
    step_mm: float
    count: int

    @property
    def centers_mm(self) -> np.ndarray:
        """(count,) float64 voxel centres."""
        return self.first_mm + self.step_mm * np.arange(self.count)

    def part(self, start: int, stop: int) -> AxisGrid:
        """Return the sub-grid of the voxels start..stop-1."""
        return AxisGrid(self.first_mm + start * self.step_mm, self.step_mm, stop - start)

    def range_around(self, lower_mm: float, upper_mm: float) -> tuple[int, int]:
        """Return start and stop of the voxels whose centres enclose a range, as far as the grid goes; at least one."""
        start = int(np.clip(np.floor((lower_mm - self.first_mm) / self.step_mm), 0, self.count - 1))
        stop = int(np.clip(np.ceil((upper_mm - self.first_mm) / self.step_mm) + 1, start + 1, self.count))
        return start, stop


Axes = tuple[AxisGrid, AxisGrid, AxisGrid]


def image_axes(shape_kji: Sequence[int], *, spacing_kji_mm: Sequence[float]) -> Axes:
    """Return the axes (k, j, i) of an image whose first voxel centre is at 0 mm."""
    k, j, i = (AxisGrid(0.0, step, count) for count, step in zip(shape_kji, spacing_kji_mm, strict=True))
    return (k, j, i)


def covering_axis(axis: AxisGrid, step_mm: float) -> AxisGrid:
    """Return the axis of voxels `step_mm` long that covers the extent of `axis`, to half a voxel, centred on it."""
    extent_mm = axis.count * axis.step_mm
    count = max(1, round(extent_mm / step_mm))
    center_mm = axis.first_mm + (axis.count - 1) * axis.step_mm / 2.0
    return AxisGrid(center_mm - (count - 1) * step_mm / 2.0, step_mm, count)


def axis_weights(
    source: AxisGrid, target: AxisGrid, *, half_width: float = 1.0, upsampling: Upsampling = "linear"
) -> np.ndarray:
    """Return the (target.count, source.count) float32 weights; each row sums to one.

    Args:
        source: Where values are known; beyond its ends they are continued with the value at the border.
        target: Where values are wanted.
        half_width: Of the triangular kernel, in steps of the target.
        upsampling: What to do where the source's step is longer than that half-width: "linear" widens the triangle to
            the source's step, "cubic" takes cubic convolution (Keys 1981), which does not flatten peaks as it does.
    """
    is_cubic = upsampling == "cubic" and source.step_mm > half_width * target.step_mm
    half_width_mm = max(source.step_mm, half_width * target.step_mm)
    # The triangle reaches one step less, cubic convolution as far. Weight beyond the border goes to the voxel there.
    reach = int(np.ceil(half_width_mm / source.step_mm)) + 1
    position = (target.centers_mm - source.first_mm) / source.step_mm
    index = np.floor(position).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)[None, :]
    distance_mm = np.abs(position[:, None] - index) * source.step_mm
    weight = _cubic(distance_mm / half_width_mm) if is_cubic else np.clip(1.0 - distance_mm / half_width_mm, 0.0, None)
    rows = np.repeat(np.arange(target.count), index.shape[1])
    matrix = np.zeros((target.count, source.count))
    np.add.at(matrix, (rows, np.clip(index, 0, source.count - 1).ravel()), weight.ravel())
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), dtype=np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Return the kernel of cubic convolution with a = -1/2, which reproduces parabolas, at distances in steps."""
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance <= 1.0, near, np.where(distance < 2.0, far, 0.0))


def resample_kji(
    volume_kji: np.ndarray,
    *,
    source: Axes,
    target: Axes,
    convert: Callable[[np.ndarray], np.ndarray] | None = None,
    half_width: float = 1.0,
    upsampling: Upsampling = "linear",
) -> np.ndarray:
    """Return `volume_kji` sampled on `target`, slice by slice.

    Args:
        volume_kji: (k, j, i) array of any dtype and strides (a flipped or transposed view will do).
        source: Axes (k, j, i) of `volume_kji`.
        target: Axes (k, j, i) wanted, in mm from the same point.
        convert: Applied to each 2D input slice before it is used, e.g. a comparison.
        half_width: See `axis_weights`.
        upsampling: See `axis_weights`.

    Returns:
        float32 array with the shape of `target`.
    """
    weights_k, weights_j, weights_i = (
        axis_weights(s, t, half_width=half_width, upsampling=upsampling) for s, t in zip(source, target, strict=True)
    )
    rows_j, rows_i = _used(weights_j), _used(weights_i)
    weights_j, weights_i = weights_j[:, rows_j], np.ascontiguousarray(weights_i[:, rows_i].T)
    out = np.empty(tuple(axis.count for axis in target), dtype=np.float32)
    reduced: dict[int, np.ndarray] = {}
    for k_out in range(target[0].count):
        used_k = np.flatnonzero(weights_k[k_out])
        # An input slice is resampled in-plane once, and kept only while output slices need it.
        reduced = {k: v for k, v in reduced.items() if k >= used_k[0]}
        for k in used_k:
            if int(k) not in reduced:
                plane = volume_kji[int(k), rows_j, rows_i]
                plane = plane if convert is None else convert(plane)
                reduced[int(k)] = weights_j @ (np.asarray(plane, dtype=np.float32) @ weights_i)
        out[k_out] = sum(weights_k[k_out, k] * reduced[int(k)] for k in used_k)
    return out


def _used(weights: np.ndarray) -> slice:
    """Return the range of source voxels that any target voxel looks at."""
    used = np.flatnonzero(weights.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)
