"""Check the HU scale by what every chest contains: air at -1000 HU and soft tissue at 50 HU.

CTs published as pictures were windowed to grey, and which window was used is rarely recorded. Read with a wrong one,
air lies at -1150 HU, say, and ground glass where healthy lung should be. The values of air and soft tissue restore the
scale. A scanner's own HU are left alone: the air around the body is at -1000, whatever metal, or noise that no floor of
-1024 cuts off, makes of the body's inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..geometry import Geometry
from ..orient import Orientation
from .chest_masks import dilate, in_plane_border, padding_value, touching_sides

#: The levels of air (measured: -997 to -1022 in whole chests, -950 to -981 in cropped CTs) and of soft tissue where HU
#: are right.
AIR_HU, SOFT_TISSUE_HU = -1000.0, 50.0

# Levels are measured on means of blocks.
#: In-plane side of the blocks: short enough to fit into the trachea, long enough to leave little noise.
BLOCK_MM = 5.0
#: A block with more padding than this share counts as padded; single voxels of tissue may have padding's value.
PADDED_SHARE = 0.2

# Air around the body.
#: HU are right if at least this much air lies at the image's border, its median is in this range, and its lower
#: quartile at most this far below the median (measured: 73 ml or more, -1020 to -974 HU and 4 to 24 HU in CTs that show
#: the air around the body; lung that reaches the border varies more).
OUTER_AIR_ML, OUTER_AIR_RANGE_HU, OUTER_AIR_SPREAD_HU = 10.0, (-1040.0, -960.0), 40.0

# Air inside the body.
#: The trachea and main bronchi of every chest hold at least this much air in one piece.
AIR_ML = 1.0
#: The range in which the level of air is searched, and how exactly it is found.
AIR_RANGE_HU, AIR_STEP_HU = (-1400.0, -600.0), 2.0

# Soft tissue.
#: The range in which its peak is searched. Of several (fat, muscle, bone) it is the one at the highest HU among those
#: whose height is at least this share of the tallest.
SOFT_TISSUE_RANGE_HU = (-600.0, 250.0)
SMALL_PEAK = 0.35
#: The histogram's bins, and the standard deviation of its smoothing.
_BIN_HU, _SMOOTH_BINS = 10.0, 1.5

# The correction.
#: Plausible ones: a window 1050 to 2250 HU wide that was read as one of 1500.
FACTORS = (0.7, 1.5)

# Windows that cut off lung or soft tissue.
#: If more than this share of the image is black, the window cut off lung; airways and bowel gas take up to 0.05.
BLACK_SHARE = 0.1
#: If more than this share of all but air is white, or nearly, the window cut off soft tissue; bone takes up to 0.09.
#: Where a window ends within the peak of soft tissue, only its brighter half is white, and fat is taken for the peak
#: (measured with windows up to 70 and 80 HU: 0.13 or more wherever that happened, with errors of 46 to 253 HU).
WHITE_SHARE, NEARLY_WHITE_HU = 0.12, 20.0


@dataclass(frozen=True)
class Limits:
    """Which levels of air and soft tissue mean a wrong scale; values that are trusted less have narrower limits.

    Attributes:
        outer_air_decides: Whether the scale is right if the air around the body is, whatever lies inside.
        low_air_hu: Air at or below this is on a wrong scale.
        high_air_hu: Air above this is, too, if soft tissue is above `high_soft_tissue_hu` as well. Air alone may read
            high: a cropped CT may show no large airway.
        high_soft_tissue_hu: See `high_air_hu`.
    """

    outer_air_decides: bool
    low_air_hu: float
    high_air_hu: float = math.inf
    high_soft_tissue_hu: float = math.inf

    def exceeded_by(self, *, air: float, soft_tissue: float) -> bool:
        """Tell whether these levels (HU) mean a wrong scale."""
        reads_low = air <= self.low_air_hu
        reads_high = air > self.high_air_hu and soft_tissue > self.high_soft_tissue_hu
        return reads_low or reads_high


#: Scanners store little below -1024.
LIMITS_OF_SCANNER = Limits(outer_air_decides=True, low_air_hu=-1060.0)
#: Grey mapped to HU.
LIMITS_OF_GUESS = Limits(outer_air_decides=False, low_air_hu=-1030.0, high_air_hu=-940.0, high_soft_tissue_hu=80.0)


@dataclass(frozen=True)
class HuScale:
    """A linear map to HU, for values on another scale.

    Attributes:
        air: The value of air.
        soft_tissue: The value of soft tissue.
        factor: HU = (value - soft_tissue) * factor + 50.
    """

    air: float
    soft_tissue: float
    factor: float


def wrong_scale(hu_kji: np.ndarray, *, geometry: Geometry, is_guess: bool = False) -> HuScale | None:
    """Return the map that puts air at -1000 HU; None if air is there already, or if no plausible map is found.

    First the air around the body is asked, then the levels of air and soft tissue inside it, and last whether the
    correction that follows from these is plausible.

    Args:
        hu_kji: (k, j, i) values that should be HU, on the CT's own grid.
        geometry: The grid.
        is_guess: Whether the values are a guess (grey mapped to HU). They are trusted less, and their air may read
            too high as well; in true HU it does so only where a cropped CT shows no large airway.
    """
    limits = LIMITS_OF_GUESS if is_guess else LIMITS_OF_SCANNER
    orientation = Orientation.of(geometry)
    volume_spl = orientation.view(hu_kji)
    means, padding, block_ml = _blocks(volume_spl, spacing_mm=orientation.spacing_mm(geometry))
    if limits.outer_air_decides and _outer_air_is_right(means, padding=padding, block_ml=block_ml):
        return None
    air = _air(means, padding=padding, block_ml=block_ml)
    soft_tissue = _soft_tissue(means[~padding])
    if air is None or soft_tissue is None or soft_tissue <= air:
        return None
    if not limits.exceeded_by(air=air, soft_tissue=soft_tissue):
        return None
    factor = (SOFT_TISSUE_HU - AIR_HU) / (soft_tissue - air)
    return HuScale(air, soft_tissue, factor) if FACTORS[0] <= factor <= FACTORS[1] else None


def is_cut_off(hu_kji: np.ndarray, *, geometry: Geometry, black_hu: float, white_hu: float) -> bool:
    """Tell whether a picture's window made lungs black or soft tissue white, so that their density is lost.

    Args:
        hu_kji: (k, j, i) grey mapped to HU.
        geometry: The grid.
        black_hu: The HU to which the lowest grey was mapped.
        white_hu: The HU to which the highest grey was mapped.
    """
    orientation = Orientation.of(geometry)
    means, padding, _block_ml = _blocks(orientation.view(hu_kji), spacing_mm=orientation.spacing_mm(geometry))
    inside = means[~padding]
    tissue = inside[inside > AIR_RANGE_HU[1]]
    black, white = inside <= black_hu + 0.5, tissue >= white_hu - NEARLY_WHITE_HU
    return bool(black.sum() > BLACK_SHARE * inside.size or white.sum() > WHITE_SHARE * tissue.size)


def rescale(hu_kji: np.ndarray, *, geometry: Geometry, scale: HuScale) -> np.ndarray:
    """Return values (k, j, i) mapped to HU, in the same dtype; padding keeps its value."""
    padding = padding_value(Orientation.of(geometry).view(hu_kji))
    scaled = np.asarray(hu_kji, dtype=np.float32) - np.float32(scale.soft_tissue)
    scaled *= np.float32(scale.factor)
    scaled += np.float32(SOFT_TISSUE_HU)
    if hu_kji.dtype.kind in "iu":
        np.rint(scaled, out=scaled)
        np.clip(scaled, np.iinfo(hu_kji.dtype).min, np.iinfo(hu_kji.dtype).max, out=scaled)
    if padding is not None:
        # No other voxel may end up with the value of padding.
        scaled[scaled == padding] += 1.0
        scaled[hu_kji == padding] = padding
    return scaled.astype(hu_kji.dtype)


def _blocks(volume_spl: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the means (k, j, i) of blocks, which of them are padded, and the volume that each stands for, in ml.

    A block is a square of about `BLOCK_MM` in one slice; of thinner slices only one per `BLOCK_MM` is looked at.
    """
    step = [max(1, min(round(BLOCK_MM / s), n)) for s, n in zip(spacing_mm, volume_spl.shape, strict=True)]
    slices = volume_spl[step[0] // 2 :: step[0]]
    count_j, count_i = (n // s for n, s in zip(slices.shape[1:], step[1:], strict=True))
    squares = slices[:, : count_j * step[1], : count_i * step[2]].reshape(
        len(slices), count_j, step[1], count_i, step[2]
    )
    means = squares.mean(axis=(2, 4), dtype=np.float32)
    value = padding_value(volume_spl)
    padding = np.zeros(means.shape, dtype=bool)
    if value is not None:
        # Air that a window cut off at its lower end has the value of padding, too, but does not reach the border.
        equal = squares == value
        padding = equal.any(axis=(2, 4)) & dilate(touching_sides(equal.mean(axis=(2, 4)) > PADDED_SHARE), 1)
    return means, padding, float(np.prod(spacing_mm) * np.prod(step)) / 1000.0


def _outer_air_is_right(means: np.ndarray, *, padding: np.ndarray, block_ml: float) -> bool:
    """Tell whether the image shows air around the body, and that at -1000 HU."""
    border = in_plane_border(padding.shape) & ~dilate(padding, 1)
    air = means[border & (means < AIR_RANGE_HU[1])]
    if air.size * block_ml < OUTER_AIR_ML:
        return False
    lower_quartile, median = np.percentile(air, (25, 50))
    lowest, highest = OUTER_AIR_RANGE_HU
    return bool(lowest <= median <= highest and median - lower_quartile <= OUTER_AIR_SPREAD_HU)


def _air(means: np.ndarray, *, padding: np.ndarray, block_ml: float) -> float | None:
    """Return the lowest level below which a connected piece of `AIR_ML` lies inside the body; None if there is none.

    Noise falls below it as well, but is scattered. Pieces at the border of the image, or of padding, do not count:
    they lie around the body, or interpolation made them at padding's edge.
    """
    from scipy import ndimage

    border = dilate(padding, 1) | in_plane_border(padding.shape)
    least = max(1, round(AIR_ML / block_ml))

    def is_found(level: float) -> bool:
        pieces, _count = ndimage.label((means <= level) & ~padding)
        sizes = np.bincount(pieces.ravel())
        sizes[np.unique(pieces[border])] = 0
        sizes[0] = 0
        return bool(sizes.max() >= least)

    # Asked first, as the search below assumes that a higher level finds air wherever a lower one does. It may not:
    # higher up lung joins the airways, and where a cropped image cuts that lung, the whole piece reaches the border.
    low_air_hu = LIMITS_OF_SCANNER.low_air_hu
    reads_low = is_found(low_air_hu)
    lower, upper = (AIR_RANGE_HU[0], low_air_hu) if reads_low else (low_air_hu, AIR_RANGE_HU[1])
    found = low_air_hu if reads_low else None
    while upper - lower > AIR_STEP_HU:
        level = (lower + upper) / 2.0
        if is_found(level):
            found = upper = level
        else:
            lower = level
    return found


def _soft_tissue(means: np.ndarray) -> float | None:
    """Return the level of soft tissue, the highest large peak of the blocks' histogram; None if there is none."""
    from scipy import ndimage

    edges = np.arange(SOFT_TISSUE_RANGE_HU[0], SOFT_TISSUE_RANGE_HU[1] + _BIN_HU, _BIN_HU)
    counts = ndimage.gaussian_filter1d(np.histogram(means, bins=edges)[0].astype(float), _SMOOTH_BINS)
    middle = counts[1:-1]
    peaks = 1 + np.flatnonzero((middle > counts[:-2]) & (middle >= counts[2:]))
    peaks = peaks[counts[peaks] >= SMALL_PEAK * counts[peaks].max(initial=0.0)]
    return float(edges[peaks[-1]] + _BIN_HU / 2.0) if peaks.size else None
