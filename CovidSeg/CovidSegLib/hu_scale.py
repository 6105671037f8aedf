"""Whether HU are right, told by what every chest holds: air at -1000 HU and soft tissue at 50.

CTs published as pictures were windowed to grey, each in a way that nobody noted: read with another window, air lies at
-1150 HU and ground glass where healthy lung should. Air and soft tissue give the scale back. A scanner's own HU are
left alone: its air lies at -1000, whatever the noise, and no mean over a few millimetres lies much below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .chest_masks import dilate, padding_value, touching_sides
from .geometry import Geometry
from .orient import Orientation

#: Means are taken over about this length in-plane: within the trachea, and little noise is left.
BLOCK_MM = 5.0
#: So much air in one piece is in trachea and main bronchi of every chest.
AIR_ML = 1.0
#: Where air is looked for, and how exactly.
AIR_RANGE_HU, AIR_STEP_HU = (-1400.0, -600.0), 2.0
#: What the darkest air reads where HU are right (measured: -997 to -1022 in whole chests, -950 to -981 in cropped CTs).
AIR_HU = -1000.0
SOFT_TISSUE_HU = 50.0
#: Air below this is wrong: scanners store little below -1024. Of a guess, less is believed.
LOW_AIR_HU, LOW_AIR_OF_GUESS_HU = -1060.0, -1030.0
#: Air above this is wrong if soft tissue reads too high as well; else a cropped CT just shows no large airway.
HIGH_AIR_HU, HIGH_SOFT_TISSUE_HU = -940.0, 80.0
#: If more than this share of a block is padding, the block is padded; single voxels of tissue may have its value.
PADDED_SHARE = 0.2
#: Where soft tissue is looked for; of several peaks (fat, muscle, bone) it is the highest that is no small one.
SOFT_TISSUE_RANGE_HU = (-600.0, 250.0)
SMALL_PEAK = 0.35
#: Plausible factors; a window of 1050 to 2250 HU that was read as one of 1500.
FACTORS = (0.7, 1.5)
_BIN_HU, _SMOOTH_BINS = 10.0, 1.5
#: If more than this share of the image is black, a window has cut lung off; airways and bowel gas take up to 0.05.
BLACK_SHARE = 0.1
#: If more than this share of what is no air is white, a window has cut soft tissue off; bone takes up to 0.07.
WHITE_SHARE = 0.12


@dataclass(frozen=True)
class HuScale:
    """A linear map to HU of values that are not.

    Attributes:
        air: What air reads.
        soft_tissue: What soft tissue reads.
        factor: HU are `(value - soft_tissue) * factor + 50`.
    """

    air: float
    soft_tissue: float
    factor: float


def wrong_scale(hu_kji: np.ndarray, *, geometry: Geometry, is_guess: bool = False) -> HuScale | None:
    """Return the map that puts air at -1000 HU; None if it is there, or if no plausible map is found.

    Args:
        hu_kji: (k, j, i) values that should be HU, on the CT's own grid.
        geometry: The grid.
        is_guess: Whether the values are themselves a guess (grey mapped to HU): less is believed of them, and air may
            read too high as well. In true HU it does so only where a cropped CT shows no large airway.
    """
    orientation = Orientation.of(geometry)
    volume_spl = orientation.view(hu_kji)
    means, padding, block_ml = _blocks(volume_spl, spacing_mm=orientation.spacing_mm(geometry))
    air = _air(means, padding=padding, block_ml=block_ml)
    soft_tissue = _soft_tissue(means[~padding])
    if air is None or soft_tissue is None or soft_tissue <= air:
        return None
    reads_low = air <= (LOW_AIR_OF_GUESS_HU if is_guess else LOW_AIR_HU)
    reads_high = is_guess and air > HIGH_AIR_HU and soft_tissue > HIGH_SOFT_TISSUE_HU
    if not (reads_low or reads_high):
        return None
    factor = (SOFT_TISSUE_HU - AIR_HU) / (soft_tissue - air)
    return HuScale(air, soft_tissue, factor) if FACTORS[0] <= factor <= FACTORS[1] else None


def is_cut_off(hu_kji: np.ndarray, *, geometry: Geometry, black_hu: float, white_hu: float) -> bool:
    """Tell whether a picture's window left lungs black or soft tissue white, so that their density is lost.

    Args:
        hu_kji: (k, j, i) grey mapped to HU.
        geometry: The grid.
        black_hu: What the lowest grey became.
        white_hu: And the highest.
    """
    orientation = Orientation.of(geometry)
    means, padding, _block_ml = _blocks(orientation.view(hu_kji), spacing_mm=orientation.spacing_mm(geometry))
    inside = means[~padding]
    tissue = inside[inside > AIR_RANGE_HU[1]]
    black, white = inside <= black_hu + 0.5, tissue >= white_hu - 0.5
    return bool(black.sum() > BLACK_SHARE * inside.size or white.sum() > WHITE_SHARE * tissue.size)


def rescale(hu_kji: np.ndarray, *, geometry: Geometry, scale: HuScale) -> np.ndarray:
    """Return values (k, j, i) put on the scale, of the same type; padding stays what it is."""
    padding = padding_value(Orientation.of(geometry).view(hu_kji))
    scaled = np.asarray(hu_kji, dtype=np.float32) - np.float32(scale.soft_tissue)
    scaled *= np.float32(scale.factor)
    scaled += np.float32(SOFT_TISSUE_HU)
    if hu_kji.dtype.kind in "iu":
        np.rint(scaled, out=scaled)
        np.clip(scaled, np.iinfo(hu_kji.dtype).min, np.iinfo(hu_kji.dtype).max, out=scaled)
    if padding is not None:
        # Nothing else may become padding by the way.
        scaled[scaled == padding] += 1.0
        scaled[hu_kji == padding] = padding
    return scaled.astype(hu_kji.dtype)


def _blocks(volume_spl: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return means (k, j, i) over squares of slices about `BLOCK_MM` apart, where padding is, and ml per block."""
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
        # Air that a window cut off at its lower end has the value of padding, but lies inside.
        equal = squares == value
        padding = equal.any(axis=(2, 4)) & dilate(touching_sides(equal.mean(axis=(2, 4)) > PADDED_SHARE), 1)
    return means, padding, float(np.prod(spacing_mm) * np.prod(step)) / 1000.0


def _air(means: np.ndarray, *, padding: np.ndarray, block_ml: float) -> float | None:
    """Return the lowest level below which a connected piece inside the body lies; None if there is none.

    Noise goes below it as well, but is scattered; padding, and what interpolation made of its edge, borders on the
    image's own border.
    """
    from scipy import ndimage

    border = dilate(padding, 1)
    border[:, (0, -1)] = border[:, :, (0, -1)] = True
    least = max(1, round(AIR_ML / block_ml))

    def is_found(level: float) -> bool:
        pieces, _count = ndimage.label((means <= level) & ~padding)
        sizes = np.bincount(pieces.ravel())
        sizes[np.unique(pieces[border])] = 0
        sizes[0] = 0
        return bool(sizes.max() >= least)

    # Above, where lung joins the airways and a cropped image cuts it, a piece may be lost again.
    reads_low = is_found(LOW_AIR_HU)
    lower, upper = (AIR_RANGE_HU[0], LOW_AIR_HU) if reads_low else (LOW_AIR_HU, AIR_RANGE_HU[1])
    found = LOW_AIR_HU if reads_low else None
    while upper - lower > AIR_STEP_HU:
        level = (lower + upper) / 2.0
        if is_found(level):
            found = upper = level
        else:
            lower = level
    return found


def _soft_tissue(means: np.ndarray) -> float | None:
    """Return the HU at which the histogram of soft tissue has its peak; None if it has none."""
    from scipy import ndimage

    edges = np.arange(SOFT_TISSUE_RANGE_HU[0], SOFT_TISSUE_RANGE_HU[1] + _BIN_HU, _BIN_HU)
    counts = ndimage.gaussian_filter1d(np.histogram(means, bins=edges)[0].astype(float), _SMOOTH_BINS)
    middle = counts[1:-1]
    peaks = 1 + np.flatnonzero((middle > counts[:-2]) & (middle >= counts[2:]))
    peaks = peaks[counts[peaks] >= SMALL_PEAK * counts[peaks].max(initial=0.0)]
    return float(edges[peaks[-1]] + _BIN_HU / 2.0) if peaks.size else None
