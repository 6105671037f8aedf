"""Where the patches of a training case are centred: near infection, or near anything else that is worth learning."""

from __future__ import annotations

import numpy as np

from .label_codes import Code

#: How far from the chosen voxel a patch may be centred, as a share of its size along each axis.
_JITTER = 0.3
#: One in so many voxels of lung is kept as a centre, because neighbours give nearly the same patch.
_LUNG_EVERY = 7
#: Numbers of centres in air that is not lung, and in other background, as shares of the number in lung.
_AIR_SHARE = 0.35
_DENSE_SHARE = 0.4


def has_centers(codes_kji: np.ndarray) -> bool:
    """Tell whether a case with these codes (k, j, i) has background, lung or infection to centre a patch on."""
    return bool((codes_kji < Code.UNKNOWN).any())


class PatchCenters:
    """The voxels of one case around which patches are cut; the case must have some (`has_centers`)."""

    def __init__(self, codes_kji: np.ndarray, *, hu_kji: np.ndarray, air_below_hu: float) -> None:
        """Collect the voxels.

        Args:
            codes_kji: (k, j, i) uint8 of `Code`.
            hu_kji: (k, j, i), same shape.
            air_below_hu: Background darker than this is air.
        """
        self._infected = np.argwhere(codes_kji == Code.INFECTION)
        self._anywhere = _worthwhile(codes_kji, hu_kji=hu_kji, air_below_hu=air_below_hu)

    def draw(self, *, patch_kji: tuple[int, int, int], infection_share: float, rng: np.random.Generator) -> np.ndarray:
        """Return the centre (3,) of a patch in voxels (k, j, i), near an infected voxel as often as asked."""
        chosen = self._infected if len(self._infected) and rng.random() < infection_share else self._anywhere
        center = chosen[rng.integers(len(chosen))]
        return np.asarray(center + rng.uniform(-_JITTER, _JITTER, size=3) * np.asarray(patch_kji))


def _worthwhile(codes_kji: np.ndarray, *, hu_kji: np.ndarray, air_below_hu: float) -> np.ndarray:
    """Return the voxels (n, 3) worth centring a patch on: lung, air that is not lung, and other background."""
    rng = np.random.default_rng(0)  # the same voxels in every run
    background = codes_kji == Code.BACKGROUND
    air = background & (hu_kji < air_below_hu)
    lung = np.argwhere((codes_kji != Code.BACKGROUND) & (codes_kji < Code.UNKNOWN))[::_LUNG_EVERY]
    groups = [lung]
    for mask, share in ((air, _AIR_SHARE), (background & ~air, _DENSE_SHARE)):
        voxels = np.argwhere(mask)
        take = min(len(voxels), max(1, int(share * len(lung))))
        groups.append(voxels[rng.choice(len(voxels), take, replace=False)] if take else voxels)
    return np.concatenate(groups)
