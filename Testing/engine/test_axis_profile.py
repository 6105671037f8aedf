"""Infection slice by slice, from apex to base, on grids of any orientation."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.orient import Orientation
from CovidSegLib.quantify import quantify_labelmap
from CovidSegLib.results.axis_profile import axis_profile, most_infected_voxel
from CovidSegLib.results.segment_masks import SegmentMasks
from hypothesis import given, settings
from hypothesis import strategies as st

SPACING_IJK_MM = (2.0, 2.5, 4.0)
SIZE_IJK = (10, 6, 9)

DIRECTIONS = {
    "head_last": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "head_first": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "mirrored": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
}


def boxes(*, direction: tuple[int, ...] = DIRECTIONS["head_last"]) -> SegmentMasks:
    """Return two lungs of 8 slices (k 1 to 8), 2 x 4 voxels each; infection in the left one at k 3 (4) and k 4 (8)."""
    left, right, infection = (np.zeros(SIZE_IJK[::-1], dtype=bool) for _ in range(3))
    left[1:, 1:5, 6:8] = True
    right[1:, 1:5, 1:3] = True
    infection[3, 1:3, 6:8] = True
    infection[4, 1:5, 6:8] = True
    return SegmentMasks(left, right, infection, Geometry(SIZE_IJK, SPACING_IJK_MM, direction_lps=direction))


def test_infected_slices_have_their_share_and_others_none() -> None:
    profile = axis_profile(boxes())
    np.testing.assert_allclose(profile.distance_mm, np.arange(8) * 4.0)
    np.testing.assert_allclose(profile.poi_percent("lungs"), [0, 0, 0, 0, 50, 25, 0, 0])
    np.testing.assert_allclose(profile.poi_percent("left_lung"), [0, 0, 0, 0, 100, 50, 0, 0])
    np.testing.assert_allclose(profile.poi_percent("right_lung"), np.zeros(8))
    np.testing.assert_allclose(profile.infection_ml["lungs"], np.array([0, 0, 0, 0, 8, 4, 0, 0]) * 0.02)
    np.testing.assert_allclose(profile.lung_ml["lungs"], np.full(8, 16 * 0.02))


def test_apex_comes_first_also_where_slices_run_from_head_to_foot() -> None:
    profile = axis_profile(boxes(direction=DIRECTIONS["head_first"]))
    np.testing.assert_allclose(profile.poi_percent("lungs"), [0, 0, 25, 50, 0, 0, 0, 0])
    assert [k for _, _, k in profile.point_ijk] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_point_of_a_slice_is_in_its_infection_else_in_a_lung(direction: tuple[int, ...]) -> None:
    masks = boxes(direction=direction)
    profile = axis_profile(masks)
    for (i, j, k), infection_ml in zip(profile.point_ijk, profile.infection_ml["lungs"], strict=True):
        mask = masks.infection_kji if infection_ml else masks.left_kji | masks.right_kji
        assert mask[k, j, i]
    step = -1 if direction[8] > 0 else 1
    assert list(np.diff(profile.point_ijk[:, 2])) == [step] * 7


def test_axis_may_be_any_of_the_grid() -> None:
    masks = boxes()
    order = (2, 0, 1)  # (k, j, i) becomes (i, k, j): the slices lie along the new j
    turned = [np.ascontiguousarray(mask.transpose(order)) for mask in (masks.left_kji, masks.right_kji)]
    infection = np.ascontiguousarray(masks.infection_kji.transpose(order))
    # New axes i, j, k are the old j, k, i, which pointed to P, S, L.
    geometry = Geometry((6, 9, 10), (2.5, 4.0, 2.0), direction_lps=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    profile = axis_profile(SegmentMasks(*turned, infection, geometry))
    np.testing.assert_allclose(profile.poi_percent("lungs"), axis_profile(masks).poi_percent("lungs"))
    np.testing.assert_array_equal(profile.point_ijk, axis_profile(masks).point_ijk[:, [1, 2, 0]])


def test_orientation_given_takes_precedence() -> None:
    flipped = Orientation(order=(0, 1, 2), flipped=(True, False, False))
    profile = axis_profile(boxes(), orientation=flipped)
    np.testing.assert_allclose(profile.poi_percent("lungs"), [0, 0, 25, 50, 0, 0, 0, 0])


def test_missing_lung_is_undefined_not_zero() -> None:
    masks = boxes()
    profile = axis_profile(
        SegmentMasks(masks.left_kji, np.zeros_like(masks.right_kji), masks.infection_kji, masks.geometry)
    )
    assert np.isnan(profile.poi_percent("right_lung")).all()
    np.testing.assert_allclose(profile.poi_percent("lungs"), profile.poi_percent("left_lung"))


def test_infection_without_any_lung_is_undefined() -> None:
    masks, nothing = boxes(), np.zeros(SIZE_IJK[::-1], dtype=bool)
    profile = axis_profile(SegmentMasks(nothing, nothing, masks.infection_kji, masks.geometry))
    np.testing.assert_allclose(profile.infection_ml["lungs"], np.array([8, 4]) * 0.02)
    assert np.isnan(profile.poi_percent("lungs")).all()


def test_point_of_a_slice_with_nothing_in_it_is_the_middle_of_the_lungs_box() -> None:
    masks = boxes()
    lungs = [mask.copy() for mask in (masks.left_kji, masks.right_kji)]
    for lung in lungs:
        lung[6] = False
    profile = axis_profile(SegmentMasks(*lungs, masks.infection_kji, masks.geometry))
    assert profile.lung_ml["lungs"][2] == 0.0
    assert profile.point_ijk[2].tolist() == [1 + 7 // 2, 1 + 4 // 2, 6]


def test_nothing_segmented_gives_no_slice() -> None:
    nothing = np.zeros(SIZE_IJK[::-1], dtype=bool)
    profile = axis_profile(SegmentMasks(nothing, nothing, nothing, Geometry(SIZE_IJK, SPACING_IJK_MM)))
    assert profile.distance_mm.shape == profile.poi_percent("lungs").shape == (0,)
    assert profile.point_ijk.shape == (0, 3)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_slices_add_up_to_the_volumes_of_the_case(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels_kji = rng.choice(4, size=(5, 6, 7), p=[0.4, 0.2, 0.2, 0.2]).astype(np.uint8)
    geometry = Geometry((7, 6, 5), SPACING_IJK_MM)
    quantities = quantify_labelmap(np.zeros(labels_kji.shape, np.int16), geometry=geometry, labelmap_kji=labels_kji)
    masks = SegmentMasks(*(labels_kji == label for label in list(Label)[1:]), geometry)
    profile = axis_profile(masks)
    for region, expected in quantities.to_dict()["regions"].items():
        assert profile.lung_ml[region].sum() == pytest.approx(expected["volume_ml"])
        assert profile.infection_ml[region].sum() == pytest.approx(expected["infection_ml"])


def test_most_infected_voxel_is_the_middle_of_the_slice_with_most() -> None:
    masks = boxes()
    i, j, k = most_infected_voxel(masks.infection_kji, orientation=Orientation.of(masks.geometry)) or (0, 0, 0)
    assert k == 4
    assert i in (6, 7)
    assert j in (2, 3)


def test_most_infected_voxel_lies_in_the_infection_also_where_its_middle_does_not() -> None:
    infection_kji = np.zeros((3, 9, 9), dtype=bool)
    infection_kji[1, 4, [0, 1, 7, 8]] = True
    voxel = most_infected_voxel(infection_kji, orientation=Orientation.of(Geometry((9, 9, 3), SPACING_IJK_MM)))
    assert voxel in ((1, 4, 1), (7, 4, 1))


def test_no_infection_has_no_most_infected_voxel() -> None:
    orientation = Orientation.of(Geometry(SIZE_IJK, SPACING_IJK_MM))
    assert most_infected_voxel(np.zeros(SIZE_IJK[::-1], dtype=bool), orientation=orientation) is None
