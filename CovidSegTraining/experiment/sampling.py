"""Sample a volume between its voxels, on its own device: images cubic or linear, labels by the nearest voxel.

The results are those of SciPy's `map_coordinates` with constant borders: points beyond the centres of the outermost
voxels are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def sample_image(image: torch.Tensor, points: torch.Tensor, *, cubic: bool) -> torch.Tensor:
    """Return an image (k, j, i) at points (k, j, i, 3) given in voxels; 0 beyond the volume."""
    import torch

    if not cubic:
        return _linear(image, points.unbind(dim=-1)) * _inside(points, image.shape)
    coefficients = spline_coefficients(image)
    # Eight linear look-ups between coefficients give the cubic spline of 64 coefficients (Sigg and Hadwiger 2005).
    base = points.floor()
    t = points - base
    inner = (4.0 - 6.0 * t**2 + 3.0 * t**3) / 6.0
    low = (1.0 - t) ** 3 / 6.0 + inner
    positions = [p.unbind(dim=-1) for p in (base - 1.0 + inner / low, base + 1.0 + t**3 / 6.0 / (1.0 - low))]
    weights = [w.unbind(dim=-1) for w in (low, 1.0 - low)]
    value = torch.zeros_like(points[..., 0])
    for k, j, i in product((0, 1), repeat=3):
        found = _linear(coefficients, (positions[k][0], positions[j][1], positions[i][2]))
        value += weights[k][0] * weights[j][1] * weights[i][2] * found
    return value * _inside(points, image.shape)


def sample_labels(labels: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return labels (k, j, i) at points (k, j, i, 3) given in voxels: of the nearest voxel, 0 beyond the volume."""
    index = (points + 0.5).floor().long()
    k, j, i = (index[..., axis].clamp(0, count - 1) for axis, count in enumerate(labels.shape))
    return labels[k, j, i] * _inside(points, labels.shape)


def spline_coefficients(image: torch.Tensor) -> torch.Tensor:
    """Return the cubic B-spline's coefficients of an image (k, j, i), mirrored at its borders."""
    import torch

    for axis, count in enumerate(image.shape):
        inverse = torch.from_numpy(_inverse_spline(count)).to(image.device)
        image = (image.movedim(axis, -1) @ inverse).movedim(-1, axis)
    return image


@lru_cache(maxsize=256)
def _inverse_spline(count: int) -> np.ndarray:
    """Return the transposed inverse of the matrix from coefficients to values along an axis of this length."""
    if count == 1:
        return np.ones((1, 1), dtype=np.float32)
    matrix = (4.0 * np.eye(count) + np.eye(count, k=1) + np.eye(count, k=-1)) / 6.0
    matrix[0, 1] = matrix[-1, -2] = 2.0 / 6.0
    return np.ascontiguousarray(np.linalg.inv(matrix).T, dtype=np.float32)


def _linear(image: torch.Tensor, positions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return an image at positions along k, j and i, linear, mirrored at the borders."""
    import torch
    from torch.nn import functional

    # grid_sample wants (i, j, k), -1 to 1 between the outermost centres.
    scaled = [2.0 / max(count - 1, 1) * along - 1.0 for along, count in zip(positions, image.shape, strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1)[None]
    return functional.grid_sample(
        image[None, None], grid, mode="bilinear", padding_mode="reflection", align_corners=True
    )[0, 0]


def _inside(points: torch.Tensor, shape_kji: Sequence[int]) -> torch.Tensor:
    """Return a mask of the points between the outermost voxels' centres."""
    import torch

    along = [(points[..., n] >= 0.0) & (points[..., n] <= count - 1.0) for n, count in enumerate(shape_kji)]
    return torch.stack(along).all(dim=0)
