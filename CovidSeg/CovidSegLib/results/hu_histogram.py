"""Exact HU statistics of several regions in one pass over a volume, in bounded memory; and their curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Bins of the curves. An edge lies at every cut point of the composition (METHOD section 10), so that a curve's parts
#: are its shares; noisy air reaches down to -1100 HU, consolidation and the vessels in the lungs up to 200 HU.
BIN_HU = 25
BIN_EDGES_HU = np.arange(-1100, 200 + 1, BIN_HU)
BIN_MIDDLES_HU = BIN_EDGES_HU[:-1] + BIN_HU / 2.0


@dataclass(frozen=True)
class Density:
    """How the HU of lungs and infection are distributed, as curves over the n bins around `BIN_MIDDLES_HU`.

    Attributes:
        lungs_percent: (n,) float64, share of the lungs' voxels, infection included.
        infection_percent: (n,) float64, share of the infection's voxels.
    """

    lungs_percent: np.ndarray
    infection_percent: np.ndarray


@dataclass(frozen=True)
class HuHistogram:
    """How often each HU value occurs in a region.

    Attributes:
        values_hu: (n,) float64, ascending, each once.
        counts: (n,) int64, at least 1 each.
    """

    values_hu: np.ndarray
    counts: np.ndarray

    def count(self, *, start: float = -np.inf, below: float = np.inf, through: float = np.inf) -> int:
        """Return the number of voxels with start <= HU < below and HU <= through."""
        chosen = (self.values_hu >= start) & (self.values_hu < below) & (self.values_hu <= through)
        return int(self.counts[chosen].sum())

    def mean(self) -> float | None:
        """Return the mean HU, or None without voxels."""
        return float(np.average(self.values_hu, weights=self.counts)) if self.counts.size else None

    def percentile(self, percent: float) -> float | None:
        """Return the percentile as `numpy.percentile` does (linear), or None without voxels."""
        if not self.counts.size:
            return None
        cumulated = np.cumsum(self.counts)
        rank = percent / 100.0 * (int(cumulated[-1]) - 1)
        lower, upper = (
            float(self.values_hu[np.searchsorted(cumulated, at, side="right")])
            for at in (np.floor(rank), np.ceil(rank))
        )
        return lower + (upper - lower) * (rank - float(np.floor(rank)))

    def percent_per_bin(self) -> np.ndarray:
        """Return the (n,) share of voxels with edge <= HU < next edge of `BIN_EDGES_HU`; all 0 without voxels.

        What lies beyond the bins counts towards the whole.
        """
        below_edge = np.append(0, np.cumsum(self.counts))[np.searchsorted(self.values_hu, BIN_EDGES_HU)]
        return 100.0 * np.diff(below_edge) / max(self.count(), 1)


class HuHistograms:
    """Histograms of the voxels of each code, filled plane by plane.

    Integers of up to 16 bits are counted in a table; of any other type the values
    themselves are kept until they are asked for (4 bytes per coded voxel of float32).
    """

    def __init__(self, *, dtype: np.dtype, code_count: int) -> None:
        self._code_count = code_count
        self._counted = dtype.kind in "iu" and dtype.itemsize <= 2
        self._lowest = int(np.iinfo(dtype).min) if self._counted else 0
        self._bins = 2 ** (8 * dtype.itemsize) if self._counted else 0
        self._table = np.zeros((code_count, self._bins), dtype=np.int64)
        self._values: list[list[np.ndarray]] = [[] for _ in range(code_count)]

    def add(self, hu: np.ndarray, code: np.ndarray) -> None:
        """Count the voxels of a plane or slab; code 0 is not counted.

        Args:
            hu: Any shape, of the type given at the start.
            code: uint8, the same shape, values below `code_count`.
        """
        used = np.flatnonzero(code)
        if used.size == 0:
            return
        values, codes = hu.ravel()[used], code.ravel()[used]
        for present in np.flatnonzero(np.bincount(codes)):
            chosen = values[codes == present]
            if self._counted:
                self._table[present] += np.bincount(chosen.astype(np.int64) - self._lowest, minlength=self._bins)
            else:
                self._values[present].append(chosen)

    def where(self, chosen: Callable[[int], bool]) -> HuHistogram:
        """Return the histogram of all voxels whose code is chosen."""
        codes = [code for code in range(1, self._code_count) if chosen(code)]
        if self._counted:
            counts = self._table[codes].sum(axis=0)
            used = np.flatnonzero(counts)
            return HuHistogram((used + self._lowest).astype(np.float64), counts[used])
        parts = [part for code in codes for part in self._values[code]]
        values, counts = np.unique(np.concatenate(parts) if parts else np.empty(0), return_counts=True)
        return HuHistogram(values.astype(np.float64), counts)
