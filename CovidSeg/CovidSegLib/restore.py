"""From probabilities on the network's grid back to labels on the CT's own grid, slice by slice."""

from __future__ import annotations

import numpy as np

from .geometry import Geometry
from .labels import Label
from .preprocess import NetworkInput
from .progress import Reporter
from .resample import axis_weights

#: Slices between two reports of progress.
REPORT_EVERY = 32


def restore_labels(
    probabilities: np.ndarray, *, network_input: NetworkInput, geometry: Geometry, reporter: Reporter
) -> np.ndarray:
    """Return the labelmap on the CT's grid.

    The probabilities are interpolated linearly and the most likely class is taken (the paper
    interpolated labels one by one with a threshold of 0.5). Outside the network's grid all is background.

    Args:
        probabilities: (4, k, j, i) float32 on `network_input.axes`.
        network_input: The grid of the probabilities and the way back.
        geometry: The CT's grid.
        reporter: Told every few slices.

    Returns:
        (k, j, i) uint8 labels, in the CT's own axes.
    """
    labelmap = np.zeros(geometry.shape_kji, dtype=np.uint8)
    out = network_input.orientation.view(labelmap)
    lungs = probabilities[Label.BACKGROUND] <= 0.5
    if not lungs.any():
        return labelmap
    # Only the part of the CT that the lungs reach is computed.
    ranges = [_covered(lungs, axis, network_input) for axis in range(3)]
    weights = [
        axis_weights(grid, network_input.source_axes[n].part(*ranges[n])) for n, grid in enumerate(network_input.axes)
    ]
    weights_k, weights_j, weights_i = weights[0], weights[1], np.ascontiguousarray(weights[2].T)
    rows, columns = slice(*ranges[1]), slice(*ranges[2])
    for n, row in enumerate(weights_k):
        if n % REPORT_EVERY == 0:
            reporter.tell("back", n, len(weights_k))
        used = np.flatnonzero(row)
        plane = np.tensordot(row[used], probabilities[:, used].swapaxes(0, 1), axes=1)
        out[ranges[0][0] + n, rows, columns] = _most_likely(weights_j @ (plane @ weights_i))
    return labelmap


def _most_likely(scores: np.ndarray) -> np.ndarray:
    """Return the argmax over the first axis of (4, j, i); several times faster than `argmax` on few classes."""
    best = scores[0].copy()
    labels = np.zeros(best.shape, dtype=np.uint8)
    for label in range(1, scores.shape[0]):
        better = scores[label] > best
        labels[better] = label
        np.maximum(best, scores[label], out=best)
    return labels


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
