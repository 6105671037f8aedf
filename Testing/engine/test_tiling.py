"""How tiles are fitted to an image: few, even, never larger than what memory was planned for."""

from __future__ import annotations

import pytest
from CovidSegLib.inference import FAST, Tiling, patch_count
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
@settings(max_examples=200, deadline=None)
def test_even_tiles_are_as_few_as_the_largest_would_be(shape: tuple[int, int, int]) -> None:
    fitted = FAST.fitted_to(shape)
    largest = Tiling(FAST.patch_kji, FAST.overlap)
    assert patch_count(shape, tiling=fitted) == patch_count(shape, tiling=largest)
    for size, limit in zip(fitted.patch_kji, FAST.patch_kji, strict=True):
        assert size % 16 == 0
        assert size <= limit
