"""Thin infection on the lungs, not in them, is none: sheets at the diaphragm, specks in organs below it."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.anatomy.partial_volume import Sheet, drop_partial_volume, measure_islands
from CovidSegLib.labels import Label
from hypothesis import given
from hypothesis import strategies as st

SPACING_KJI_MM = (4.0, 2.0, 1.0)
SHEETS = (Sheet(10.0, 0.3, 60.0), Sheet(3.0, 0.7, 60.0))
BACKGROUND, LEFT, RIGHT, INFECTION = (int(label) for label in Label)


def lung_above_organ() -> np.ndarray:
    """Return labels (k, j, i): left lung in the upper half, background in the lower one."""
    labels = np.zeros((20, 24, 24), np.uint8)
    labels[10:] = LEFT
    return labels


def dropped(labels: np.ndarray, *, second: int = BACKGROUND) -> np.ndarray:
    """Return the labels after the rule, where `second` is the next likely class of every voxel."""
    probabilities = np.full((4, *labels.shape), 0.05, np.float32)
    probabilities[second] += 0.2
    np.put_along_axis(probabilities, labels[None].astype(np.int64), 0.6, axis=0)
    found = labels.copy()
    drop_partial_volume(probabilities, found, spacing_kji_mm=SPACING_KJI_MM, sheets=SHEETS)
    changed = found != labels
    assert np.array_equal(probabilities.argmax(axis=0)[changed], found[changed])
    assert np.allclose(probabilities[:, changed].sum(axis=0), 1.0, atol=1e-5)
    assert not (changed & (labels != INFECTION)).any()
    return found


def test_thickness_and_contact_of_a_box_are_those_of_its_faces() -> None:
    labels = lung_above_organ()
    labels[8:12, 4:10, 4:16] = INFECTION  # 16 x 12 x 12 mm, half of it in the lung
    islands = measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM)
    surface = 2 * (16 * 12 + 16 * 12 + 12 * 12)
    assert islands.thickness_mm[1] == pytest.approx(2 * 16 * 12 * 12 / surface)
    assert islands.lung_contact[1] == pytest.approx(0.5)
    assert islands.volume_ml[1] == pytest.approx(16 * 12 * 12 / 1000)


def test_voxels_that_touch_at_a_corner_are_one_piece_and_without_infection_there_is_none() -> None:
    labels = lung_above_organ()
    assert measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM).volume_ml.tolist() == [0.0]
    labels[4, 4, 4] = labels[5, 5, 5] = INFECTION
    assert measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM).volume_ml == pytest.approx([0.0, 0.016])


@pytest.mark.parametrize("limit", ["thickness_mm", "lung_contact", "volume_ml"])
@pytest.mark.parametrize("is_dropped", [False, True])
def test_piece_that_just_meets_a_limit_stays(limit: str, *, is_dropped: bool) -> None:
    labels = lung_above_organ()
    labels[8:12, 4:10, 4:16] = INFECTION
    islands = measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM)
    limits = {"thickness_mm": 99.0, "lung_contact": 1.1, "volume_ml": 99.0}
    limits[limit] = getattr(islands, limit)[1] * (1.0 + 1e-9 * is_dropped)
    probabilities = np.full((4, *labels.shape), 0.25, np.float32)
    found = labels.copy()
    drop_partial_volume(
        probabilities,
        found,
        spacing_kji_mm=SPACING_KJI_MM,
        sheets=(Sheet(**limits),),
    )
    assert (found != labels).any() == is_dropped


def test_sheet_in_an_organ_that_touches_lung_with_its_rim_is_background() -> None:
    labels = lung_above_organ()
    labels[7:10, 4:20, 4:20] = INFECTION  # 12 mm high below the lung: 22 % of its surface is its upper face
    assert 0.1 < measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM).lung_contact[1] < 0.3
    assert np.array_equal(dropped(labels), lung_above_organ())


def test_what_is_dropped_becomes_lung_where_that_comes_second() -> None:
    labels = lung_above_organ()
    labels[7:10, 4:20, 4:20] = INFECTION
    assert (dropped(labels, second=LEFT)[7:10, 4:20, 4:20] == LEFT).all()


@pytest.mark.parametrize(
    ("rows", "is_dropped"),
    [
        pytest.param(1, True, id="2 mm"),
        pytest.param(2, False, id="4 mm"),
    ],
)
def test_film_on_the_border_of_the_lung_is_none_though_half_of_it_is_on_lung(rows: int, is_dropped: bool) -> None:
    labels = np.zeros((20, 40, 40), np.uint8)
    labels[:, 20:] = LEFT
    clean = labels.copy()
    labels[5:15, 20 : 20 + rows, 5:35] = INFECTION
    islands = measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM)
    assert 0.5 <= islands.lung_contact[1] < 0.7
    assert np.array_equal(dropped(labels, second=LEFT), clean if is_dropped else labels)


def test_film_with_lung_around_it_stays() -> None:
    labels = lung_above_organ()
    labels[14, 4:20, 4:20] = INFECTION  # one slice, 4 mm
    labels[14, 4:20, 6:20:3] = LEFT
    assert (measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM).thickness_mm[1:] < 3.0).all()
    assert np.array_equal(dropped(labels), labels)


def test_infection_below_the_pleura_stays() -> None:
    labels = lung_above_organ()
    labels[10:12, 4:20, 4:20] = INFECTION  # lies on the diaphragm, in the lung
    assert np.array_equal(dropped(labels), labels)


def test_thick_consolidation_stays_though_it_touches_no_lung() -> None:
    labels = np.zeros((30, 40, 60), np.uint8)
    labels[5:25, 5:35, 5:50] = INFECTION  # 80 x 60 x 45 mm: 17 mm by twice volume through surface
    assert np.array_equal(dropped(labels), labels)


def test_large_consolidation_stays_though_it_is_thin_and_touches_little_lung() -> None:
    labels = np.zeros((6, 80, 120), np.uint8)
    labels[2:4, 5:75, 5:115] = INFECTION  # 8 x 140 x 110 mm: 123 ml, 7 mm thick
    assert np.array_equal(dropped(labels), labels)
    labels[:, 35:45] = labels[:, :, 55:65] = BACKGROUND  # the same in four pieces of 25 ml
    assert not dropped(labels).any()


def test_voxels_that_are_sure_to_be_infection_become_background() -> None:
    labels = lung_above_organ()
    labels[5:7, 5:7, 5:7] = INFECTION
    probabilities = np.zeros((4, *labels.shape), np.float32)
    np.put_along_axis(probabilities, labels[None].astype(np.int64), 1.0, axis=0)
    drop_partial_volume(probabilities, labels, spacing_kji_mm=SPACING_KJI_MM, sheets=SHEETS)
    assert np.array_equal(labels, lung_above_organ())
    assert (probabilities[BACKGROUND, 5:7, 5:7, 5:7] == 1.0).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0, 1, 2), (2, 0, 1), (1, 2, 0)]))
def test_measures_do_not_depend_on_the_order_of_the_axes(seed: int, order: tuple[int, int, int]) -> None:
    labels = np.random.default_rng(seed).choice(4, size=(5, 6, 7), p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
    one = measure_islands(labels, spacing_kji_mm=SPACING_KJI_MM)
    turned = tuple(SPACING_KJI_MM[axis] for axis in order)
    other = measure_islands(labels.transpose(order), spacing_kji_mm=(turned[0], turned[1], turned[2]))
    assert np.allclose(np.sort(one.thickness_mm[1:]), np.sort(other.thickness_mm[1:]))
    assert np.allclose(np.sort(one.lung_contact[1:]), np.sort(other.lung_contact[1:]))
