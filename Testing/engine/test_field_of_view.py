"""Warnings that the image does not show the lungs whole, on lungs whose cross-sections are counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from CovidSegLib.anatomy.chest import Chest
from CovidSegLib.anatomy.field_of_view import field_of_view_warnings
from CovidSegLib.geometry import Geometry

SHAPE_SPL = (10, 20, 20)
WHOLE = Chest(
    axes=(),  # type: ignore[arg-type]
    inside=np.zeros(SHAPE_SPL, dtype=bool),
    padding_hu=None,
    padding=None,
    box_mm=((0.0, 0.0),) * 3,  # type: ignore[arg-type]
    aerated_ml=3000.0,
    touches_side=False,
    touches_padding=False,
)


def warnings_of(lungs_kji: np.ndarray, *, geometry: Geometry | None = None, chest: Chest | None = WHOLE) -> str:
    k, j, i = lungs_kji.shape
    grid = geometry or Geometry((i, j, k), (4.0, 4.0, 4.0))
    return " ".join(field_of_view_warnings(lungs_kji, geometry=grid, chest=chest))


@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.parametrize(("voxels", "warns"), [(10, False), (11, True)])
def test_lungs_with_more_than_a_tenth_of_their_section_in_an_end_slice_are_not_whole(
    end: int, voxels: int, *, warns: bool
) -> None:
    lungs = np.zeros(SHAPE_SPL, dtype=np.uint8)
    lungs[5, 5:15, 5:15] = 1  # 100 voxels
    lungs[end].flat[:voxels] = 3
    assert ("reach the first or the last slice" in warnings_of(lungs)) == warns


def test_end_slices_are_those_at_head_and_feet_however_the_ct_is_stored() -> None:
    lungs = np.zeros(SHAPE_SPL, dtype=np.uint8)
    lungs[:, 5:15, 5:15] = 1
    lungs[0] = lungs[-1] = 0
    along_i = Geometry((10, 20, 20), (4.0, 4.0, 4.0), direction_lps=(0, 0, 1.0, 0, 1.0, 0, 1.0, 0, 0))
    assert warnings_of(lungs) == warnings_of(lungs.transpose(2, 1, 0), geometry=along_i) == ""
    lungs[-1] = lungs[5]
    assert "reach the first or the last slice" in warnings_of(lungs.transpose(2, 1, 0), geometry=along_i)


@pytest.mark.parametrize("reached", ["touches_side", "touches_padding"])
def test_lungs_at_the_border_of_the_image_or_of_its_padding_are_cropped(reached: str) -> None:
    lungs = np.zeros(SHAPE_SPL, dtype=np.uint8)
    lungs[5] = 1
    assert "the field of view is cropped" in warnings_of(lungs, chest=replace(WHOLE, **{reached: True}))


def test_ct_without_air_filled_lungs_is_judged_by_the_labels_alone() -> None:
    lungs = np.zeros(SHAPE_SPL, dtype=np.uint8)
    lungs[5] = 1
    assert warnings_of(lungs, chest=None) == ""
