"""The synthetic chest CT: reproducible, anatomically oriented, and counted exactly."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from CovidSegLib.labels import Label
from CovidSegLib.phantom import Phantom, make_phantom

# A whole chest on few voxels: about 390 x 312 x 320 mm.
SMALL: dict[str, Any] = {"size_ijk": (96, 80, 64), "spacing_ijk_mm": (4.0, 3.9, 5.0)}


@cache
def small_phantom(seed: int = 7, **options: Any) -> Phantom:
    """Return a small phantom, made once."""
    return make_phantom(seed=seed, **SMALL, **options)


def lung(phantom: Phantom, label: Label) -> np.ndarray:
    """Return the whole lung of a side, infection included."""
    return phantom.lung_side_kji == label


def centroid_lps(phantom: Phantom, mask: np.ndarray) -> np.ndarray:
    """Return the centre of a mask in LPS (mm)."""
    index_ijk = np.argwhere(mask).mean(axis=0)[::-1]
    return (phantom.ct.geometry.ijk_to_lps @ [*index_ijk, 1.0])[:3]


def best_threshold_dice(phantom: Phantom) -> float:
    """Return the infection Dice of the best lower HU threshold, given the true lungs."""
    in_lung = phantom.lung_side_kji > 0
    hu, infected = phantom.ct.hu_kji[in_lung], phantom.labelmap_kji[in_lung] == Label.INFECTION
    dices = [
        2.0 * np.count_nonzero(found & infected) / (np.count_nonzero(found) + np.count_nonzero(infected))
        for found in (hu > cut for cut in range(-850, 100, 10))
    ]
    return max(dices)


def test_same_seed_gives_same_case_whatever_the_global_state() -> None:
    np.random.seed(1)
    first = make_phantom(seed=3, infection_percent=10.0, **SMALL)
    np.random.seed(2)
    second = make_phantom(seed=3, infection_percent=10.0, **SMALL)
    assert np.array_equal(first.ct.hu_kji, second.ct.hu_kji)
    assert np.array_equal(first.labelmap_kji, second.labelmap_kji)
    assert first.truth == second.truth
    assert first.ct.fingerprint == second.ct.fingerprint


def test_seeds_give_different_patients() -> None:
    first, second = small_phantom(1), small_phantom(2)
    assert abs(first.truth.lung_ml - second.truth.lung_ml) > 1.0
    assert np.mean(first.lung_side_kji != second.lung_side_kji) > 0.002
    assert first.ct.fingerprint != second.ct.fingerprint


def test_grid_is_the_one_asked_for_and_axial_lps() -> None:
    phantom = small_phantom()
    geometry = phantom.ct.geometry
    assert geometry.size_ijk == SMALL["size_ijk"]
    assert geometry.spacing_ijk_mm == SMALL["spacing_ijk_mm"]
    assert np.array_equal(geometry.direction_matrix, np.eye(3))
    assert phantom.ct.hu_kji.shape == phantom.labelmap_kji.shape == geometry.shape_kji
    assert phantom.ct.hu_kji.dtype == np.int16
    assert phantom.labelmap_kji.dtype == np.uint8
    assert phantom.ct.hu_kji.min() >= -1024


def test_truth_is_the_count_of_the_labels() -> None:
    phantom = small_phantom(7, infection_percent=20.0)
    truth, labels, ml = phantom.truth, phantom.labelmap_kji, phantom.ct.geometry.voxel_volume_ml
    infected = labels == Label.INFECTION
    assert truth.lung_ml == pytest.approx(np.count_nonzero(labels) * ml)
    assert truth.infection_ml == pytest.approx(np.count_nonzero(infected) * ml)
    assert truth.poi_percent == pytest.approx(100.0 * np.count_nonzero(infected) / np.count_nonzero(labels))
    assert truth.poi_percent == pytest.approx(20.0, abs=2.0)
    assert truth.ground_glass_ml + truth.consolidation_ml == pytest.approx(truth.infection_ml)
    assert truth.consolidation_ml == pytest.approx(np.count_nonzero(infected & (phantom.ct.hu_kji >= -300)) * ml)
    for label, volume_ml, poi in (
        (Label.LEFT_LUNG, truth.left_lung_ml, truth.poi_left_percent),
        (Label.RIGHT_LUNG, truth.right_lung_ml, truth.poi_right_percent),
    ):
        side = lung(phantom, label)
        assert volume_ml == pytest.approx(np.count_nonzero(side) * ml)
        assert poi == pytest.approx(100.0 * np.count_nonzero(infected & side) / np.count_nonzero(side))
        assert np.array_equal(labels == label, side & ~infected)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_left_lung_is_on_the_patients_left_and_the_smaller_one(seed: int) -> None:
    phantom = small_phantom(seed)
    left, right = lung(phantom, Label.LEFT_LUNG), lung(phantom, Label.RIGHT_LUNG)
    assert centroid_lps(phantom, left)[0] > centroid_lps(phantom, right)[0] + 80.0
    assert np.argwhere(left)[:, 2].min() > np.argwhere(right)[:, 2].max() - 12
    assert phantom.truth.left_lung_ml < phantom.truth.right_lung_ml
    assert 2000.0 < phantom.truth.lung_ml < 7500.0


def test_heart_lies_left_liver_right() -> None:
    phantom = small_phantom(4, infection_percent=0.0)
    lungs = phantom.lung_side_kji > 0
    slices = np.flatnonzero(lungs.any(axis=(1, 2)))
    # Half way up the lower half, the heart takes room from the left lung; the lowest lung is the left one.
    k = slices[len(slices) // 3]
    area = [np.count_nonzero(lung(phantom, label)[k]) for label in (Label.LEFT_LUNG, Label.RIGHT_LUNG)]
    assert area[0] < area[1]
    columns = phantom.ct.hu_kji[slices[len(slices) // 5]]
    width = columns.shape[1]
    right_half, left_half = columns[:, : width // 2 - 8], columns[:, width // 2 + 8 :]
    assert np.count_nonzero(right_half > 20) > 0 < np.count_nonzero(left_half > 20)


def test_air_in_the_trachea_and_around_the_body_is_no_lung() -> None:
    from scipy.ndimage import label as components

    phantom = make_phantom(seed=5, size_ijk=(150, 120, 80), spacing_ijk_mm=(2.5, 2.5, 4.0), infection_percent=0.0)
    air = (phantom.ct.hu_kji < -800) & (phantom.lung_side_kji == 0)
    parts, count = components(air)
    in_plane_border = np.concatenate([parts[:, [0, -1], :].ravel(), parts[:, :, [0, -1]].ravel()])
    outside = np.isin(parts, np.setdiff1d(in_plane_border, 0))
    assert outside.mean() > 0.2
    assert np.all(phantom.labelmap_kji[outside] == Label.BACKGROUND)
    # In the upper chest, the largest air enclosed by the body is the trachea: one to four cm2, in the middle.
    top = slice(len(parts) // 2 + 8, len(parts) // 2 + 14)
    enclosed = np.where(outside, 0, parts)
    trachea = enclosed == 1 + np.argmax(np.bincount(enclosed[top].ravel(), minlength=count + 1)[1:])
    area_mm2 = np.count_nonzero(trachea[top]) / 6 * 2.5 * 2.5
    assert 60.0 < area_mm2 < 400.0
    assert abs(centroid_lps(phantom, trachea)[0]) < 30.0


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_no_threshold_finds_the_infection(seed: int) -> None:
    phantom = make_phantom(seed=seed, infection_percent=8.0)
    assert best_threshold_dice(phantom) < 0.8


def test_healthy_phantom_has_no_infection() -> None:
    phantom = small_phantom(9, infection_percent=0.0)
    assert Label.INFECTION not in phantom.labelmap_kji
    assert phantom.truth.infection_ml == 0.0
    assert phantom.truth.poi_percent == phantom.truth.poi_left_percent == 0.0


@pytest.mark.parametrize("percent", [1.0, 5.0, 35.0, 60.0])
def test_infection_takes_the_share_asked_for(percent: float) -> None:
    poi = small_phantom(21, infection_percent=percent).truth.poi_percent
    assert poi == pytest.approx(percent, abs=0.5 + 0.06 * percent)


def test_infection_does_not_change_the_patient() -> None:
    healthy, ill = small_phantom(6, infection_percent=0.0), small_phantom(6, infection_percent=30.0)
    assert np.array_equal(healthy.lung_side_kji, ill.lung_side_kji)
    far = healthy.lung_side_kji == 0
    difference = np.abs(healthy.ct.hu_kji[far].astype(int) - ill.ct.hu_kji[far])
    assert np.median(difference) == 0


@pytest.mark.parametrize(("side", "label"), [("left", Label.LEFT_LUNG), ("right", Label.RIGHT_LUNG)])
def test_consolidated_lung_is_dense_infection_throughout(side: Any, label: Label) -> None:
    phantom = small_phantom(8, infection_percent=0.0, consolidated_lung=side)
    whole = lung(phantom, label)
    assert np.all(phantom.labelmap_kji[whole] == Label.INFECTION)
    assert np.all(phantom.labelmap_kji[~whole] != Label.INFECTION)
    assert -30.0 < np.median(phantom.ct.hu_kji[whole]) < 90.0
    assert np.count_nonzero(whole) == np.count_nonzero(lung(small_phantom(8, infection_percent=0.0), label))
    truth = phantom.truth
    assert (truth.poi_left_percent, truth.poi_right_percent) == ((100.0, 0.0) if side == "left" else (0.0, 100.0))


def test_effusion_is_fluid_at_the_back_and_no_lung() -> None:
    dry, wet = small_phantom(10, infection_percent=5.0), small_phantom(10, infection_percent=5.0, effusion="right")
    fluid = (dry.lung_side_kji > 0) & (wet.lung_side_kji == 0)
    volume_ml = np.count_nonzero(fluid) * wet.ct.geometry.voxel_volume_ml
    assert volume_ml > 80.0
    assert -20.0 < np.median(wet.ct.hu_kji[fluid]) < 40.0
    assert np.all(lung(dry, Label.RIGHT_LUNG)[fluid])
    assert np.all(wet.labelmap_kji[fluid] == Label.BACKGROUND)
    assert centroid_lps(wet, fluid)[1] > centroid_lps(wet, lung(wet, Label.RIGHT_LUNG))[1] + 30.0


def test_missing_lung_leaves_its_numbers_undefined() -> None:
    phantom = small_phantom(12, infection_percent=10.0, missing_lung="left")
    assert not lung(phantom, Label.LEFT_LUNG).any()
    assert phantom.truth.poi_left_percent is None
    assert phantom.truth.left_lung_ml == 0.0
    assert phantom.truth.poi_percent == phantom.truth.poi_right_percent == pytest.approx(10.0, abs=1.5)


def test_another_voxel_size_shows_the_same_patient() -> None:
    fine = make_phantom(seed=14, size_ijk=(192, 160, 120), spacing_ijk_mm=(2.0, 2.0, 2.7), infection_percent=15.0)
    coarse = make_phantom(seed=14, size_ijk=(96, 100, 54), spacing_ijk_mm=(4.0, 3.2, 6.0), infection_percent=15.0)
    for name, value in asdict(coarse.truth).items():
        if name.endswith("lung_ml"):
            assert value == pytest.approx(getattr(fine.truth, name), rel=0.03)
    assert coarse.truth.infection_ml == pytest.approx(fine.truth.infection_ml, rel=0.06)
    for label in (Label.LEFT_LUNG, Label.RIGHT_LUNG):
        shift = centroid_lps(fine, lung(fine, label)) - centroid_lps(coarse, lung(coarse, label))
        assert np.abs(shift).max() < 3.0


def test_shifted_centre_crops_the_field_of_view() -> None:
    whole = small_phantom(7, infection_percent=20.0)
    step = SMALL["spacing_ijk_mm"][2]
    lower = make_phantom(seed=7, infection_percent=20.0, center_lps_mm=(0.0, 0.0, -15.0 - 20 * step), **SMALL)
    assert np.array_equal(lower.labelmap_kji[20:], whole.labelmap_kji[:-20])
    assert lower.truth.lung_ml < whole.truth.lung_ml


def test_tissues_have_their_densities() -> None:
    phantom = make_phantom(seed=2, infection_percent=0.0, size_ijk=(150, 120, 70), spacing_ijk_mm=(2.5, 2.5, 4.5))
    hu = phantom.ct.hu_kji
    assert -910.0 < np.median(hu[phantom.lung_side_kji > 0]) < -740.0
    assert np.count_nonzero(hu > 250) > 2000  # bone
    fat, soft = np.count_nonzero((hu > -130) & (hu < -70)), np.count_nonzero((hu > 20) & (hu < 80))
    assert fat > 0.05 * hu.size
    assert soft > 0.05 * hu.size
    assert abs(np.median(hu[:, :4, :20]) + 1000.0) < 30.0  # air in front of the body


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"infection_percent": 120.0}, "percentage from 0 to 90, not 120"),
        ({"infection_percent": -1.0}, "percentage from 0 to 90"),
        ({"size_ijk": (0, 10, 10)}, "positive size"),
        ({"spacing_ijk_mm": (1.0, 0.0, 1.0)}, "positive size and spacing"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_phantom(seed=1, **options)


def test_image_without_any_chest_is_air_and_has_no_numbers() -> None:
    phantom = make_phantom(
        seed=1, size_ijk=(12, 12, 8), spacing_ijk_mm=(2.0, 2.0, 2.0), center_lps_mm=(0.0, -400.0, 0.0)
    )
    assert not phantom.labelmap_kji.any()
    assert phantom.truth.poi_percent is None
    assert phantom.ct.hu_kji.max() < -850


def test_truth_is_immutable() -> None:
    truth = small_phantom().truth
    assert replace(truth) == truth
    with pytest.raises(AttributeError):
        truth.lung_ml = 0.0  # type: ignore[misc]
