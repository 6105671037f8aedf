"""Move the lungs' border to where the CT shows it: dense tissue at the lungs' surface becomes background.

The network sees softened voxels of 1.6 x 1.6 x 2.7 mm. On the CT's own grid its lungs therefore reach into chest wall
and diaphragm, most of all where the border runs obliquely through the slices. As infection may be dense itself, only a
thin dense layer over infection that is not dense counts as wall.
"""

from __future__ import annotations

import numpy as np

from ..boxes import bounding_box, grown, neighbours
from ..geometry import Geometry
from ..labels import Label
from ..orient import Orientation

#: A little above halfway between aerated lung and soft tissue, so that vessels' walls and blur by motion stay.
DENSE_FROM_HU = -325.0
#: Depth below the lungs' surface down to which dense voxels are removed; limited, because vessels lead inwards.
DEPTH_MM = 3.0
#: Slices worked on at a time.
SLAB = 32


def trim_lung_border(labelmap_kji: np.ndarray, *, hu_kji: np.ndarray, geometry: Geometry) -> None:
    """Make dense voxels at the border of the lungs background, in place.

    They are removed from the outside inwards, through dense voxels alone; infection is restored where it is dense
    farther inside as well. Where the border of the image cuts the lungs, nothing is removed from that side.

    Args:
        labelmap_kji: (k, j, i) uint8 of `Label`; changed.
        hu_kji: (k, j, i) HU on the same grid.
        geometry: The grid.
    """
    orientation = Orientation.of(geometry)
    labels, hu = orientation.view(labelmap_kji), orientation.view(hu_kji)
    steps = [round(DEPTH_MM / spacing) for spacing in orientation.spacing_mm(geometry)]
    # In-plane one voxel can always be wrong, however large it is; a thick slice is not taken away whole.
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
        # The slices above are trimmed already in the labelmap: here they are needed as they were.
        slab = np.concatenate([above, labels[start:stop], below])
        dense = hu[start - len(above) : stop + len(below)] >= DENSE_FROM_HU
        trimmed = _wall(slab, dense=dense, steps=steps)[len(above) : len(slab) - len(below)]
        above = slab[max(0, len(slab) - len(below) - reach) : len(slab) - len(below)]
        labels[start:stop][trimmed] = Label.BACKGROUND


def _wall(labels: np.ndarray, *, dense: np.ndarray, steps: list[int]) -> np.ndarray:
    """Return the dense voxels of the lungs that can be reached from outside in so many steps along each axis."""
    outside, infection = labels == Label.BACKGROUND, labels == Label.INFECTION
    wall = _spread(outside, through=dense & ~outside, steps=steps) & ~outside
    return wall & ~_spread(infection & dense & ~wall, through=infection & wall, steps=steps)


def _spread(mask: np.ndarray, *, through: np.ndarray, steps: list[int]) -> np.ndarray:
    """Return the mask grown by so many steps along each axis, into the voxels of `through` only.

    The steps of axes with fewer of them are spread evenly over the rounds. Shifted copies are used because
    `scipy.ndimage.binary_dilation` is many times slower on whole CTs.
    """
    found = mask.copy()
    rounds = max(steps)
    for n in range(rounds):
        more = found.copy()
        for axis, count in enumerate(steps):
            if (n + 1) * count // rounds > n * count // rounds:
                one, next_one = neighbours(axis)
                more[next_one] |= found[one]
                more[one] |= found[next_one]
        found |= more & through
    return found
