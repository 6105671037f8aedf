"""The lungs' border where the CT shows it: dense tissue that the network's coarse labels include is background.

The network sees voxels of 1.6 x 1.6 x 2.7 mm, softened; on the CT's own grid its lungs reach into chest wall and
diaphragm, most where the border runs aslant through the slices. Infection may be dense itself: of it only a thin
dense layer over what is not dense is taken for the wall.
"""

from __future__ import annotations

import numpy as np

from .boxes import bounding_box, grown
from .geometry import Geometry
from .labels import Label
from .orient import Orientation

#: Halfway between aerated lung and soft tissue, and a little more: vessels' walls and motion stay.
DENSE_FROM_HU = -325.0
#: So deep from the lungs' surface; vessels go on inside.
DEPTH_MM = 3.0
#: Slices worked on at a time.
SLAB = 32
#: Along an axis: the voxels that have one before them, and those before them.
_NEIGHBOURS = (slice(1, None), slice(None, -1))


def trim_lung_border(labelmap_kji: np.ndarray, *, hu_kji: np.ndarray, geometry: Geometry) -> None:
    """Make dense voxels at the border of the lungs background, in place.

    They are taken away from the outside inwards, through dense voxels alone, and infection is given back where it is
    dense farther inside as well. The border of the image is none of the lungs'.

    Args:
        labelmap_kji: (k, j, i) uint8 of `Label`; changed.
        hu_kji: (k, j, i) HU on the same grid.
        geometry: The grid.
    """
    orientation = Orientation.of(geometry)
    labels, hu = orientation.view(labelmap_kji), orientation.view(hu_kji)
    steps = [round(DEPTH_MM / spacing) for spacing in orientation.spacing_mm(geometry)]
    # In the plane of coarse slices, one voxel can always be wrong.
    steps = [steps[0], max(1, steps[1]), max(1, steps[2])]
    box = bounding_box(labels)
    if box is None:
        return
    # A margin of one voxel shows what lies outside the lungs.
    box = grown(box, margin_kji=(1, 1, 1), shape_kji=labels.shape)
    labels, hu = labels[box], hu[box]
    reach = 2 * steps[0]
    above = labels[:0]
    for start in range(0, len(labels), SLAB):
        stop = min(start + SLAB, len(labels))
        below = labels[stop : stop + reach]
        # The slices above are trimmed by now; it must begin from what they were.
        slab = np.concatenate([above, labels[start:stop], below])
        dense = hu[start - len(above) : stop + len(below)] >= DENSE_FROM_HU
        trimmed = _wall(slab, dense=dense, steps=steps)[len(above) : len(slab) - len(below)]
        above = slab[max(0, len(slab) - len(below) - reach) : len(slab) - len(below)]
        labels[start:stop][trimmed] = Label.BACKGROUND


def _wall(labels: np.ndarray, *, dense: np.ndarray, steps: list[int]) -> np.ndarray:
    """Return the dense voxels of the lungs that so many steps along each axis reach from outside."""
    outside, infection = labels == Label.BACKGROUND, labels == Label.INFECTION
    wall = _grown(outside, through=dense & ~outside, steps=steps) & ~outside
    return wall & ~_grown(infection & dense & ~wall, through=infection & wall, steps=steps)


def _grown(mask: np.ndarray, *, through: np.ndarray, steps: list[int]) -> np.ndarray:
    """Return the mask grown by so many steps along each axis, through some voxels alone."""
    grown = mask.copy()
    rounds = max(steps)
    for n in range(rounds):
        more = grown.copy()
        for axis, count in enumerate(steps):
            if (n + 1) * count // rounds > n * count // rounds:
                ahead, behind = (tuple(s if a == axis else slice(None) for a in range(3)) for s in _NEIGHBOURS)
                more[ahead] |= grown[behind]
                more[behind] |= grown[ahead]
        grown |= more & through
    return grown
