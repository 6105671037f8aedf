"""Tubes of the phantom: along lines, or grown as trees; and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Array


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of tubes in one frame, the body's or the scanner's (mm).

    Attributes:
        start_mm, end_mm: (n, 3) x, y, z.
        start_radius_mm, end_radius_mm: (n,) outer radius.
    """

    start_mm: Array
    end_mm: Array
    start_radius_mm: Array
    end_radius_mm: Array


def polyline(points_mm: list[tuple[float, float, float]], *, radius_mm: list[float] | float) -> Tubes:
    """Return a tube through `points_mm` (body frame), smoothed to pieces of a few mm, with its radii."""
    points = np.asarray(points_mm, dtype=np.float64)
    radii = np.broadcast_to(np.asarray(radius_mm, dtype=np.float64), len(points))
    for _ in range(2):  # Chaikin corner cutting keeps the ends
        points = _cut_corners(points)
        radii = _cut_corners(radii[:, None])[:, 0]
    return Tubes(points[:-1], points[1:], radii[:-1].copy(), radii[1:].copy())


def _cut_corners(values: Array) -> Array:
    inner = np.stack([0.75 * values[:-1] + 0.25 * values[1:], 0.25 * values[:-1] + 0.75 * values[1:]], axis=1)
    return np.concatenate([values[:1], inner.reshape(-1, values.shape[1])[1:-1], values[-1:]])


def grow_tree(
    rng: np.random.Generator, *, root_mm: Array, targets_mm: Array, root_radius_mm: float, tip_radius_mm: float
) -> Tubes:
    """Return a tree from the root to all targets, radii by Murray's law (cubes add up at branchings).

    Args:
        rng: Where branches bend.
        root_mm: (3,) start, body frame.
        targets_mm: (n, 3) points to reach, body frame.
        root_radius_mm: Upper bound of the radius.
        tip_radius_mm: Radius at the targets.
    """
    order = np.argsort(np.linalg.norm(targets_mm - root_mm, axis=1))
    count = 1 + 2 * len(targets_mm)
    nodes = np.zeros((count, 3))
    path = np.zeros(count)
    parent = np.full(count, -1)
    nodes[0] = root_mm
    used = 1
    for target in targets_mm[order]:
        gap = np.linalg.norm(nodes[:used] - target, axis=1)
        # Short total path from the root makes long straight branches instead of a wandering chain.
        nearest = int(np.argmin(gap + 0.35 * path[:used]))
        middle = 0.5 * (nodes[nearest] + target) + rng.normal(0.0, 0.07, 3) * gap[nearest]
        for point, origin in ((middle, nearest), (target, used)):
            nodes[used] = point
            parent[used] = origin
            path[used] = path[origin] + np.linalg.norm(point - nodes[origin])
            used += 1
    cubes = np.zeros(count)
    cubes[2::2] = tip_radius_mm**3
    for node in range(count - 1, 0, -1):
        cubes[parent[node]] += cubes[node]
    radius = np.minimum(np.cbrt(cubes), root_radius_mm)
    return Tubes(nodes[parent[1:]], nodes[1:], radius[parent[1:]], radius[1:])


def widened(tubes: Tubes, *, by_mm: float, share: float = 0.0) -> Tubes:
    """Return the tubes with their radii enlarged by a share of themselves, then by `by_mm` (negative: narrowed)."""
    grown = [radius * (1.0 + share) + by_mm for radius in (tubes.start_radius_mm, tubes.end_radius_mm)]
    return Tubes(tubes.start_mm, tubes.end_mm, grown[0], grown[1])


def joined(*parts: Tubes) -> Tubes:
    """Return all parts as one."""
    return Tubes(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("start_mm", "end_mm", "start_radius_mm", "end_radius_mm")
        )
    )


def draw_tubes(
    tubes: Tubes,
    *,
    axes_mm: tuple[Array, Array, Array],
    into_kji: Array,
    edge_mm: float,
) -> None:
    """Raise `into_kji` (uint8, 255 = wholly inside) to the tubes' coverage of each voxel.

    Args:
        tubes: Pieces in the scanner frame (mm).
        axes_mm: Positions of voxel centres along x, y, z.
        into_kji: (k, j, i) uint8, changed in place.
        edge_mm: Width of the soft edge; a tube thinner than it is drawn fainter, as partial volume does.
    """
    x_mm, y_mm, z_mm = (np.asarray(axis, dtype=np.float32) for axis in axes_mm)
    reach = np.maximum(tubes.start_radius_mm, tubes.end_radius_mm) + edge_mm
    low = np.minimum(tubes.start_mm, tubes.end_mm) - reach[:, None]
    high = np.maximum(tubes.start_mm, tubes.end_mm) + reach[:, None]
    first = np.stack([np.searchsorted(axis, low[:, n]) for n, axis in enumerate((x_mm, y_mm, z_mm))], axis=1)
    last = np.stack([np.searchsorted(axis, high[:, n]) for n, axis in enumerate((x_mm, y_mm, z_mm))], axis=1)
    for n in np.flatnonzero(np.all(last > first, axis=1)):
        (i0, j0, k0), (i1, j1, k1) = first[n], last[n]
        start, along = tubes.start_mm[n], tubes.end_mm[n] - tubes.start_mm[n]
        dx = x_mm[i0:i1][None, None, :] - np.float32(start[0])
        dy = y_mm[j0:j1][None, :, None] - np.float32(start[1])
        dz = z_mm[k0:k1][:, None, None] - np.float32(start[2])
        ax, ay, az = (np.float32(v) for v in along)
        share = (dx * ax + dy * ay + dz * az) / np.float32(max(float(along @ along), 1e-6))
        share = np.minimum(np.maximum(share, 0), 1)
        distance = np.sqrt((dx - share * ax) ** 2 + (dy - share * ay) ** 2 + (dz - share * az) ** 2)
        radius = np.float32(tubes.start_radius_mm[n])
        radius = radius + share * np.float32(tubes.end_radius_mm[n] - tubes.start_radius_mm[n])
        cover = np.minimum(np.maximum(0.5 + (radius - distance) / np.float32(edge_mm), 0), 1)
        # A tube narrower than the edge fills only a part of a voxel.
        cover = cover * np.minimum(2.0 * radius / np.float32(edge_mm), 1.0)
        box = into_kji[k0:k1, j0:j1, i0:i1]
        np.maximum(box, (cover * 255).astype(np.uint8), out=box)
