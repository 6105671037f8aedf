"""View a volume along the patient's axes: i to the left, j to the back, k to the head.

Only axes are swapped and flipped (a numpy view, nothing is copied or interpolated), so an
oblique volume keeps its obliqueness and the way back is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from .geometry import Geometry


@dataclass(frozen=True)
class Orientation:
    """How the axes of an array (k, j, i) map to the patient axes (S, P, L).

    Attributes:
        order: Array axis that runs closest to S, P and L, in this order.
        flipped: Whether that axis runs the other way (I, A, R).
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, geometry: Geometry) -> Orientation:
        """Return the closest orientation of a grid; each axis is used once.

        Among the six assignments of grid axes to patient axes the one with the greatest sum
        of absolute direction cosines is taken, so that 45 degree obliques resolve as well.
        """
        cosines = geometry.direction_matrix  # rows L, P, S; columns i, j, k
        best = max(
            permutations(range(3)), key=lambda axes: sum(abs(cosines[row, axis]) for row, axis in enumerate(axes))
        )
        # best[row] = grid axis (0 = i) for L, P, S; array axis = 2 - grid axis.
        order = tuple(2 - best[row] for row in (2, 1, 0))
        flipped = tuple(bool(cosines[row, best[row]] < 0) for row in (2, 1, 0))
        return cls(order=order, flipped=flipped)  # type: ignore[arg-type]

    def view(self, array_kji: np.ndarray) -> np.ndarray:
        """Return a view with axes (S, P, L) of an array (k, j, i)."""
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return array_kji.transpose(self.order)[flips]

    def spacing_mm(self, geometry: Geometry) -> tuple[float, float, float]:
        """Return the spacing along the view's axes (S, P, L)."""
        spacing_kji = geometry.spacing_ijk_mm[::-1]
        a, b, c = self.order
        return (spacing_kji[a], spacing_kji[b], spacing_kji[c])
