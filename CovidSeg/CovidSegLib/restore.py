"""From labels, or a map, on the network's grid back to the CT's own grid, slice by slice."""

from __future__ import annotations

import numpy as np

from .geometry import Geometry
from .labels import Label, likeliest_label
from .preprocess import NetworkInput
from .progress import Reporter
from .resample import axis_weights, resample_kji

#: Slices between two reports of progress.
REPORT_EVERY = 32


def restore_labels(
    labels_kji: np.ndarray, *, network_input: NetworkInput, geometry: Geometry, reporter: Reporter
) -> np.ndarray:
    """Return the labelmap on the CT's grid.

    Each label is interpolated linearly by itself, as in the paper, and the one with the largest share
    wins (a threshold of 0.5 would leave gaps where three meet). Outside the network's grid all is background.

    Args:
        labels_kji: (k, j, i) uint8 of `Label` on `network_input.axes`.
        network_input: The grid of the labels and the way back.
        geometry: The CT's grid.
        reporter: Told every few slices.

    Returns:
        (k, j, i) uint8 labels, in the CT's own axes.

    Source: paper, section "Preprocessing" (resampling of the segmentation).
    """
    labelmap = np.zeros(geometry.shape_kji, dtype=np.uint8)
    out = network_input.orientation.view(labelmap)
    lungs = labels_kji != Label.BACKGROUND
    if not lungs.any():
        return labelmap
    # Only the part of the CT that the lungs reach is computed.
    ranges = [_covered(lungs, axis, network_input) for axis in range(3)]
    weights_k, weights_j, weights_i = (
        axis_weights(grid, source.part(*used))
        for grid, source, used in zip(network_input.axes, network_input.source_axes, ranges, strict=True)
    )
    seen = out[tuple(slice(*used) for used in ranges)]
    classes = np.array([int(label) for label in Label], dtype=np.uint8)[1:, None, None]
    planes: dict[int, np.ndarray] = {}
    shares = np.empty((len(Label), 1, *seen.shape[1:]), dtype=np.float32)
    for n, row in enumerate(weights_k):
        if n % REPORT_EVERY == 0:
            reporter.tell("back", n, len(seen))
        used = np.flatnonzero(row)
        # A plane of the network's grid serves several slices of the CT.
        planes = {
            k: planes[k] if k in planes else weights_j @ ((labels_kji[k] == classes).astype(np.float32) @ weights_i.T)
            for k in used.tolist()
        }
        shares[1:, 0] = sum(row[k] * plane for k, plane in planes.items())
        shares[0] = 1.0 - shares[1:].sum(axis=0)
        seen[n] = likeliest_label(shares)[0]
    return labelmap


def restore_map(
    values_kji: np.ndarray, *, network_input: NetworkInput, geometry: Geometry, reporter: Reporter
) -> np.ndarray:
    """Return a map on the CT's grid, in whole per cent, interpolated linearly.

    It is worked out in slabs, so that nothing but the result has the CT's size. Outside the
    patient and the network's grid all is 0.

    Args:
        values_kji: (k, j, i) float32 from 0 to 1 on `network_input.axes`.
        network_input: The grid of the values and the way back.
        geometry: The CT's grid.
        reporter: Told at every slab.

    Returns:
        (k, j, i) uint8 from 0 to 100, in the CT's own axes.
    """
    restored = np.zeros(geometry.shape_kji, dtype=np.uint8)
    values_kji = values_kji * network_input.inside_kji
    if not values_kji.any():
        return restored
    out = network_input.orientation.view(restored)
    ranges = [_covered(values_kji > 0, axis, network_input) for axis in range(3)]
    target = [axis.part(*used) for axis, used in zip(network_input.source_axes, ranges, strict=True)]
    seen = out[tuple(slice(*used) for used in ranges)]
    for start in range(0, len(seen), REPORT_EVERY):
        reporter.tell("back", start, len(seen))
        stop = min(start + REPORT_EVERY, len(seen))
        slab = (target[0].part(start, stop), target[1], target[2])
        percent = resample_kji(values_kji, source=network_input.axes, target=slab)
        percent *= 100.0
        seen[start:stop] = np.rint(percent, out=percent)
    return restored


def _covered(lungs: np.ndarray, axis: int, network_input: NetworkInput) -> tuple[int, int]:
    """Return the range of CT voxels along an axis that the lungs on the network's grid reach, with a margin."""
    grid, source = network_input.axes[axis], network_input.source_axes[axis]
    others = tuple(n for n in range(3) if n != axis)
    used = np.flatnonzero(lungs.any(axis=others))
    lower_mm = grid.first_mm + (used[0] - 1.5) * grid.step_mm
    upper_mm = grid.first_mm + (used[-1] + 1.5) * grid.step_mm
    start = int(np.clip(np.floor((lower_mm - source.first_mm) / source.step_mm), 0, source.count - 1))
    stop = int(np.clip(np.ceil((upper_mm - source.first_mm) / source.step_mm) + 1, start + 1, source.count))
    return start, stop
