"""Where training patches are centred: how often on infection, how far from it, and what else is shown."""

from __future__ import annotations

import numpy as np
import pytest

from CovidSegTraining.product.centers import PatchCenters
from CovidSegTraining.product.label_codes import Code

POINT = (0, 0, 0)
"""A patch without an extent is centred on the very voxel."""


def volume() -> tuple[np.ndarray, np.ndarray]:
    """Return codes and HU (k, j, i): 700 voxels of lung, air and tissue above and below, much unknown, one infected."""
    codes = np.full((10, 40, 40), Code.UNKNOWN, dtype=np.uint8)
    hu = np.full(codes.shape, 40, dtype=np.int16)
    codes[4, :35, :20] = Code.LEFT_LUNG
    codes[4, 7, 7] = Code.INFECTION
    codes[:3] = codes[7:] = Code.BACKGROUND
    hu[7:] = -1000
    return codes, hu


def drawn(
    codes: np.ndarray, hu: np.ndarray, *, share: float, count: int = 5000, patch_kji: tuple[int, int, int] = POINT
) -> np.ndarray:
    """Return centres (count, 3)."""
    centers, rng = PatchCenters(codes, hu_kji=hu, air_below_hu=-500.0), np.random.default_rng(0)
    return np.array([centers.draw(patch_kji=patch_kji, infection_share=share, rng=rng) for _ in range(count)])


def test_centres_lie_within_three_tenths_of_the_patch_around_infection() -> None:
    patch_kji = (8, 20, 100)
    off = np.abs(drawn(*volume(), share=1.0, count=1000, patch_kji=patch_kji) - (4, 7, 7)).max(axis=0)
    assert (off <= 0.3 * np.array(patch_kji)).all() and (off > 0.29 * np.array(patch_kji)).all()


def test_infection_is_drawn_as_often_as_asked() -> None:
    codes, hu = volume()
    codes[4, 7, 8] = Code.INFECTION  # not among every seventh voxel of lung, from the first on
    shares = {}
    for share in (0.0, 0.2, 1.0):
        k, j, i = drawn(codes, hu, share=share).T.astype(int)
        shares[share] = (codes[k, j, i] == Code.INFECTION).mean()
    assert shares[0.0] < 0.02 and shares[0.2] == pytest.approx(0.2, abs=0.03) and shares[1.0] == 1.0


def test_rest_is_lung_and_less_of_air_and_tissue_but_nothing_unknown() -> None:
    codes, hu = volume()
    k, j, i = drawn(codes, hu, share=0.0, count=20_000).T.astype(int)
    assert not (codes[k, j, i] == Code.UNKNOWN).any()
    lung, air, tissue = codes[k, j, i] > Code.BACKGROUND, hu[k, j, i] < -500, k < 3
    # For each voxel of lung, 0.35 of air and 0.4 of other background: 100, 35 and 40.
    assert [part.mean() for part in (lung, air, tissue)] == pytest.approx([100 / 175, 35 / 175, 40 / 175], abs=0.015)
    assert [len(set(zip(k[part], j[part], i[part], strict=True))) for part in (lung, air, tissue)] == [100, 35, 40]


@pytest.mark.parametrize("lung_voxels", [0, 1])
def test_case_with_hardly_any_lung_shows_a_voxel_of_air_and_of_tissue(lung_voxels: int) -> None:
    codes, hu = volume()
    codes[3:7] = Code.UNKNOWN
    codes[5, 0, :lung_voxels] = Code.RIGHT_LUNG
    found = {tuple(center) for center in drawn(codes, hu, share=0.5, count=200)}
    assert len(found) == 2 + lung_voxels and len([center for center in found if center[0] >= 7]) == 1


def test_choice_of_voxels_is_the_same_every_time() -> None:
    assert np.array_equal(drawn(*volume(), share=0.3, count=50), drawn(*volume(), share=0.3, count=50))
