from __future__ import annotations

import math

import numpy as np
import pytest
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from hypothesis import given
from hypothesis.extra.numpy import arrays

from CovidSegTraining.scores import (
    Counts,
    Sides,
    check_sides,
    mean,
    other_side_share,
    poi_percent,
    region_mask,
    surface_dice,
)


def test_scores_of_four_counts_as_by_hand() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    found = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    counts = Counts.of(truth, found)
    assert counts == Counts(3, 1, 1, 5)
    assert counts.dice == pytest.approx(6 / 8)
    assert counts.sensitivity == pytest.approx(3 / 4)
    assert counts.specificity == pytest.approx(5 / 6)


def test_voxels_that_do_not_count_change_nothing() -> None:
    truth, found = np.array([1, 0, 1, 0], dtype=bool), np.array([1, 0, 0, 1], dtype=bool)
    counted = np.array([1, 1, 0, 0], dtype=bool)
    assert Counts.of(truth, found, counted=counted) == Counts(1, 0, 0, 1)


def test_nothing_there_and_nothing_found_is_undefined() -> None:
    nothing = np.zeros(5, dtype=bool)
    counts = Counts.of(nothing, nothing)
    assert math.isnan(counts.dice) and math.isnan(counts.sensitivity) and counts.specificity == 1.0


def test_different_shapes_are_refused() -> None:
    for truth in (np.zeros(3, dtype=bool), np.zeros(1, dtype=bool)):
        with pytest.raises(ValueError, match=r"truth has shape \(.*, the segmentation \(4,\)"):
            Counts.of(truth, np.zeros(4, dtype=bool))


@given(arrays(bool, 20), arrays(bool, 20))
def test_counts_add_up_and_dice_is_symmetric(truth: np.ndarray, found: np.ndarray) -> None:
    counts, swapped = Counts.of(truth, found), Counts.of(found, truth)
    total = counts.true_positive + counts.false_positive + counts.false_negative + counts.true_negative
    assert total == 20
    assert counts.dice == swapped.dice or (math.isnan(counts.dice) and math.isnan(swapped.dice))


def test_lungs_are_both_lungs_with_their_infection() -> None:
    labels = np.array([0, 1, 2, 3])
    assert region_mask(labels, "lungs").tolist() == [False, True, True, True]
    assert region_mask(labels, "left").tolist() == [False, True, False, False]
    assert region_mask(labels, "infection").tolist() == [False, False, False, True]


def test_poi_counts_infection_over_lung_with_infection() -> None:
    labels = np.array([0, 0, 1, 2, 2, 3])
    assert poi_percent(labels) == pytest.approx(25.0)
    assert poi_percent(labels, counted=np.array([1, 1, 1, 0, 0, 1], dtype=bool)) == pytest.approx(50.0)
    assert math.isnan(poi_percent(np.zeros(4)))


def test_mean_leaves_out_what_is_undefined() -> None:
    assert mean([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean([math.nan]))


def _box(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[start:stop, start:stop, start:stop] = True
    return mask


def test_surface_dice_of_equal_masks_is_one() -> None:
    assert surface_dice(_box(5, 15), _box(5, 15), spacing_kji_mm=(2, 1, 1), tolerance_mm=0.0) == 1.0


def test_surface_dice_within_tolerance_is_one_and_below_it_less() -> None:
    # Every face of the smaller box lies one voxel (1 mm) inside the larger one's; corners sqrt(3) apart.
    inner, outer = _box(6, 14), _box(5, 15)
    assert surface_dice(outer, inner, spacing_kji_mm=(1, 1, 1), tolerance_mm=1.8) == 1.0
    assert surface_dice(outer, inner, spacing_kji_mm=(1, 1, 1), tolerance_mm=0.9) == 0.0
    # At 1 mm all of the inner surface is near, and of the outer one all but its 12 edges.
    inner_size, outer_size = 8**3 - 6**3, 10**3 - 8**3
    edges = 12 * 8 + 8
    expected = (inner_size + outer_size - edges) / (inner_size + outer_size)
    assert surface_dice(outer, inner, spacing_kji_mm=(1, 1, 1), tolerance_mm=1.0) == pytest.approx(expected)


def test_surface_dice_sees_no_surface_where_knowledge_ends() -> None:
    # Known is the half up to k = 9; beyond it the masks differ, and their cut is no surface.
    truth, found = _box(5, 15), _box(5, 15)
    found[10:] = False
    counted = np.zeros(truth.shape, dtype=bool)
    counted[:10] = True
    score = surface_dice(truth, found, spacing_kji_mm=(1, 1, 1), tolerance_mm=0.0, counted_kji=counted)
    assert score == 1.0
    assert surface_dice(truth, found, spacing_kji_mm=(1, 1, 1), tolerance_mm=0.0) < 1.0


def test_surface_dice_without_any_surface() -> None:
    nothing = np.zeros((20, 20, 20), dtype=bool)
    assert math.isnan(surface_dice(nothing, nothing, spacing_kji_mm=(1, 1, 1), tolerance_mm=1.0))
    assert surface_dice(_box(5, 9), nothing, spacing_kji_mm=(1, 1, 1), tolerance_mm=1.0) == 0.0


def _two_lungs(*, left_at_high_i: bool) -> np.ndarray:
    labels = np.zeros((8, 8, 20), dtype=np.uint8)
    labels[:, :, 2:8] = Label.RIGHT_LUNG if left_at_high_i else Label.LEFT_LUNG
    labels[:, :, 12:18] = Label.LEFT_LUNG if left_at_high_i else Label.RIGHT_LUNG
    return labels


def _geometry(*, i_runs_left: bool) -> Geometry:
    sign = 1.0 if i_runs_left else -1.0
    return Geometry((20, 8, 8), (1.0, 1.0, 1.0), direction_lps=(sign, 0, 0, 0, 1, 0, 0, 0, 1))


@pytest.mark.parametrize("i_runs_left", [True, False])
@pytest.mark.parametrize("left_at_high_i", [True, False])
def test_sides_follow_the_header_not_the_array(i_runs_left: bool, left_at_high_i: bool) -> None:
    sides = check_sides(_two_lungs(left_at_high_i=left_at_high_i), geometry=_geometry(i_runs_left=i_runs_left))
    assert sides.swapped == (i_runs_left != left_at_high_i)
    assert sides.mistaken == sides.swapped


def test_part_of_a_lung_on_the_wrong_side_is_a_mistake() -> None:
    labels = _two_lungs(left_at_high_i=True)
    labels[:2, :, 2:5] = Label.LEFT_LUNG  # 48 voxels beside 768, to the right of the right lung's centre
    sides = check_sides(labels, geometry=_geometry(i_runs_left=True))
    assert not sides.swapped and sides.mistaken
    assert sides.stray_share == pytest.approx(48 / (8 * 8 * 6 + 48))


def test_share_on_the_other_side_counts_healthy_lung_of_both_labelmaps() -> None:
    labels = np.array([[[0, 1, 1, 1, 2, 2, 2, 3, 1, 1]]], np.uint8)
    other = np.array([[[1, 1, 1, 2, 2, 1, 0, 2, 3, 2]]], np.uint8)
    counted = np.array([[[True] * 9 + [False]]])
    assert other_side_share(labels, other, counted=counted) == 2 / 5
    assert math.isnan(other_side_share(labels, np.zeros_like(labels), counted=counted))


@pytest.mark.parametrize(("strays", "mistaken"), [(3, False), (4, True)])
def test_one_percent_of_a_lung_on_the_wrong_side_is_a_mistake(strays: int, mistaken: bool) -> None:
    labels = _two_lungs(left_at_high_i=True)
    labels[2, :strays, 0] = Label.LEFT_LUNG  # beside 384 voxels
    sides = check_sides(labels, geometry=_geometry(i_runs_left=True))
    assert sides.stray_share == pytest.approx(strays / (384 + strays))
    assert sides.mistaken == mistaken


@pytest.mark.parametrize("missing", [Label.LEFT_LUNG, Label.RIGHT_LUNG])
def test_missing_lung_is_no_mistake(missing: Label) -> None:
    labels = _two_lungs(left_at_high_i=True)
    labels[labels == missing] = 0
    assert check_sides(labels, geometry=_geometry(i_runs_left=True)) == Sides(swapped=False, stray_share=0.0)
