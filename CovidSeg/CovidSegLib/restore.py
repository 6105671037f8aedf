"""Bring labels, or a map, from the network's grid back to the CT's own grid."""

from __future__ import annotations

import numpy as np

from .boxes import Box, bounding_box
from .geometry import Geometry
from .labels import Label, likeliest_label
from .preprocess import NetworkInput
from .progress import Reporter
from .resample import axis_weights, resample_kji

#: Slices between two reports of progress; also the thickness of the slabs in which a map is restored.
REPORT_EVERY = 32


def restore_labels(
    labels_kji: np.ndarray, *, network_input: NetworkInput, geometry: Geometry, reporter: Reporter
) -> np.ndarray:
    """Return the labelmap on the CT's grid.

    Each label is interpolated linearly on its own, as in the paper, and the one with the largest share wins
    (the paper's threshold of 0.5 leaves gaps where three labels meet). Outside the network's grid all is background.

    Args:
        labels_kji: (k, j, i) uint8 of `Label` on `network_input.axes`.
        network_input: Both grids, and how the CT is oriented.
        geometry: The CT's grid.
        reporter: Told every few slices.

    Returns:
        (k, j, i) uint8 labels, in the CT's own axes.

    Source: paper, section "Preprocessing" (resampling of the segmentation).
    """
    labelmap = np.zeros(geometry.shape_kji, dtype=np.uint8)
    out = network_input.orientation.view(labelmap)
    box = bounding_box(labels_kji)
    if box is None:
        return labelmap
    # Only the part of the CT that the lungs reach is computed.
    ranges = _source_ranges(box, network_input=network_input)
    weights_k, weights_j, weights_i = (
        axis_weights(grid, source.part(*used))
        for grid, source, used in zip(network_input.axes, network_input.source_axes, ranges, strict=True)
    )
    part = out[tuple(slice(*used) for used in ranges)]
    classes = np.array([int(label) for label in Label], dtype=np.uint8)[1:, None, None]
    planes: dict[int, np.ndarray] = {}
    shares = np.empty((len(Label), 1, *part.shape[1:]), dtype=np.float32)
    for n, weights in enumerate(weights_k):
        if n % REPORT_EVERY == 0:
            reporter.tell("back", n, len(part))
        used = np.flatnonzero(weights)
        # A plane of the network's grid serves several slices of the CT.
        planes = {
            k: planes[k] if k in planes else weights_j @ ((labels_kji[k] == classes).astype(np.float32) @ weights_i.T)
            for k in used.tolist()
        }
        shares[1:, 0] = sum(weights[k] * plane for k, plane in planes.items())
        shares[0] = 1.0 - shares[1:].sum(axis=0)
        part[n] = likeliest_label(shares)[0]
    return labelmap


def restore_map(
    values_kji: np.ndarray, *, network_input: NetworkInput, geometry: Geometry, reporter: Reporter
) -> np.ndarray:
    """Return a map on the CT's grid, in whole per cent, interpolated linearly.

    It is computed in slabs, so that nothing but the result has the CT's size. Outside the
    patient and outside the network's grid all is 0.

    Args:
        values_kji: (k, j, i) float32 from 0 to 1 on `network_input.axes`.
        network_input: Both grids, and how the CT is oriented.
        geometry: The CT's grid.
        reporter: Told at every slab.

    Returns:
        (k, j, i) uint8 from 0 to 100, in the CT's own axes.
    """
    restored = np.zeros(geometry.shape_kji, dtype=np.uint8)
    values_kji = values_kji * network_input.inside_kji
    box = bounding_box(values_kji)
    if box is None:
        return restored
    out = network_input.orientation.view(restored)
    ranges = _source_ranges(box, network_input=network_input)
    target = [axis.part(*used) for axis, used in zip(network_input.source_axes, ranges, strict=True)]
    part = out[tuple(slice(*used) for used in ranges)]
    for start in range(0, len(part), REPORT_EVERY):
        reporter.tell("back", start, len(part))
        stop = min(start + REPORT_EVERY, len(part))
        slab = (target[0].part(start, stop), target[1], target[2])
        percent = resample_kji(values_kji, source=network_input.axes, target=slab)
        percent *= 100.0
        part[start:stop] = np.rint(percent, out=percent)
    return restored


def _source_ranges(box: Box, *, network_input: NetworkInput) -> list[tuple[int, int]]:
    """Return start and stop, per axis, of the oriented CT's voxels that a box on the network's grid can reach.

    Interpolation reaches one step beyond the box's outermost centres: of the network's grid, to which half a step is
    added, or of a coarser CT, for which rounding outwards suffices.
    """
    ranges = []
    for used, grid, source in zip(box, network_input.axes, network_input.source_axes, strict=True):
        lower_mm = grid.first_mm + (used.start - 1.5) * grid.step_mm
        upper_mm = grid.first_mm + (used.stop + 0.5) * grid.step_mm
        ranges.append(source.range_around(lower_mm, upper_mm))
    return ranges
