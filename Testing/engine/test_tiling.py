"""How tiles are fitted to an image: few, even, never larger than what memory was planned for."""

from __future__ import annotations

import pytest
from CovidSegLib.inference import FAST, MODES, TILINGS, Tiling, patch_count
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("shape", "patch", "count"),
    [
        ((110, 171, 242), (112, 176, 256), 1),  # one tile holds a chest
        ((130, 190, 240), (80, 192, 240), 2),  # two tiles of 80 slices, not two of 128
        ((5, 50, 16), (16, 64, 16), 1),
    ],
)
def test_even_tiles_are_no_larger_than_their_number_needs(
    shape: tuple[int, int, int], patch: tuple[int, int, int], count: int
) -> None:
    fitted = FAST.fitted_to(shape)
    assert fitted.patch_kji == patch
    assert patch_count(shape, tiling=fitted) == count


@given(shape=st.tuples(*[st.integers(1, 400)] * 3))
@settings(max_examples=200)
def test_even_tiles_are_as_few_as_the_largest_would_be(shape: tuple[int, int, int]) -> None:
    fitted = FAST.fitted_to(shape)
    largest = Tiling(FAST.patch_kji, FAST.overlap)
    assert patch_count(shape, tiling=fitted) == patch_count(shape, tiling=largest)
    for size, limit in zip(fitted.patch_kji, FAST.patch_kji, strict=True):
        assert size % 16 == 0
        assert size <= limit


@given(
    shape=st.tuples(*[st.integers(1, 400)] * 3),
    patch=st.tuples(*[st.integers(1, 20)] * 3),
    overlap=st.sampled_from([0.0, 0.125, 0.25, 0.5]),
)
@settings(max_examples=200)
def test_patches_are_counted_as_monai_counts_them(
    shape: tuple[int, int, int], patch: tuple[int, int, int], overlap: float
) -> None:
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    k, j, i = patch
    for tiling in (Tiling((16 * k, 16 * j, 16 * i), overlap), *(TILINGS[mode].fitted_to(shape) for mode in MODES)):
        padded = tuple(max(pair) for pair in zip(shape, tiling.patch_kji, strict=True))
        interval = _get_scan_interval(padded, tiling.patch_kji, 3, [tiling.overlap] * 3)
        expected = dense_patch_slices(padded, tiling.patch_kji, interval, return_slice=False)
        assert patch_count(shape, tiling=tiling) == len(expected)
