"""Islands of a mask: which go, which stay, and how much that is."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.anatomy.islands import remove_islands
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst


def mask_of_islands() -> np.ndarray:
    """Return three islands of 1, 8 and 27 voxels, far from each other."""
    mask_kji = np.zeros((12, 10, 14), dtype=bool)
    mask_kji[0, 0, 0] = True
    mask_kji[4:6, 4:6, 4:6] = True
    mask_kji[8:11, 6:9, 10:13] = True
    return mask_kji


def test_islands_below_the_limit_go_and_others_stay() -> None:
    mask_kji = mask_of_islands()
    removal = remove_islands(mask_kji, voxel_ml=0.01, min_ml=0.1)
    expected_kji = np.zeros_like(mask_kji)
    expected_kji[8:11, 6:9, 10:13] = True
    np.testing.assert_array_equal(removal.mask_kji, expected_kji)
    assert (removal.removed_count, removal.kept_count) == (2, 1)
    assert removal.removed_ml == pytest.approx(0.09)


def test_island_as_large_as_the_limit_stays_in_spite_of_rounding() -> None:
    mask_kji = np.zeros((3, 3, 3), dtype=bool)
    mask_kji[0, 0, :3] = True
    assert 3 * 0.009 < 0.027  # in floating point
    assert remove_islands(mask_kji, voxel_ml=0.009, min_ml=0.027).removed_count == 0


def test_voxels_that_touch_at_a_corner_are_one_island() -> None:
    mask_kji = np.zeros((4, 4, 4), dtype=bool)
    mask_kji[0, 0, 0] = mask_kji[1, 1, 1] = True
    removal = remove_islands(mask_kji, voxel_ml=1.0, min_ml=2.0)
    assert (removal.removed_count, removal.kept_count) == (0, 1)


def test_input_is_not_changed() -> None:
    mask_kji = mask_of_islands()
    remove_islands(mask_kji, voxel_ml=0.01, min_ml=1.0)
    np.testing.assert_array_equal(mask_kji, mask_of_islands())


@pytest.mark.parametrize("shape", [(0, 0, 0), (3, 4, 5)])
def test_empty_mask_stays_empty(shape: tuple[int, int, int]) -> None:
    removal = remove_islands(np.zeros(shape, dtype=bool), voxel_ml=1.0, min_ml=1.0)
    assert removal.mask_kji.shape == shape
    assert (removal.removed_count, removal.removed_ml, removal.kept_count) == (0, 0.0, 0)


@pytest.mark.parametrize(("voxel_ml", "min_ml"), [(0.0, 1.0), (1.0, -0.1)])
def test_volumes_without_sense_are_refused(voxel_ml: float, min_ml: float) -> None:
    with pytest.raises(ValueError, match="expected above 0, and 0 or more"):
        remove_islands(mask_of_islands(), voxel_ml=voxel_ml, min_ml=min_ml)


@settings(max_examples=40)
@given(npst.arrays(bool, (5, 6, 7)), st.integers(0, 20))
def test_volumes_add_up_and_a_second_time_removes_nothing(mask_kji: np.ndarray, min_voxels: int) -> None:
    removal = remove_islands(mask_kji, voxel_ml=0.5, min_ml=0.5 * min_voxels)
    assert not (removal.mask_kji & ~mask_kji).any()
    assert removal.removed_ml == pytest.approx(0.5 * np.count_nonzero(mask_kji & ~removal.mask_kji))
    again = remove_islands(removal.mask_kji, voxel_ml=0.5, min_ml=0.5 * min_voxels)
    assert (again.removed_count, again.kept_count) == (0, removal.kept_count)
