"""Quantities of volumes whose answer is known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from CovidSegLib.anatomy.nearest_lung import assign_infection_to_lungs, whole_lungs_labelmap
from CovidSegLib.boxes import bounding_box, grown
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.quantify import Quantities, quantify, quantify_labelmap
from CovidSegLib.results.severity import DEFINITION, Severity, severity_class
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

L, R, INF = Label.LEFT_LUNG, Label.RIGHT_LUNG, Label.INFECTION
ANISOTROPIC_MM = (0.5, 0.8, 2.5)  # i, j, k: a voxel of 1 mm3 = 0.001 ml


def grid(shape_kji: tuple[int, int, int], spacing_ijk_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Geometry:
    k, j, i = shape_kji
    return Geometry((i, j, k), spacing_ijk_mm)


def boxes() -> np.ndarray:
    """A right lung of 1000 voxels of which 250 are infected, a left lung of 1000 of which 100 are."""
    labelmap = np.zeros((12, 14, 30), dtype=np.uint8)
    labelmap[1:11, 2:12, 2:12] = R
    labelmap[1:11, 2:7, 2:7] = INF
    labelmap[1:11, 2:12, 18:28] = L
    labelmap[1:11, 11:12, 18:28] = INF
    return labelmap


def measured(labelmap: np.ndarray, *, hu: float = -800, spacing_ijk_mm=(1.0, 1.0, 1.0)) -> Quantities:
    hu_kji = np.full(labelmap.shape, hu, dtype=np.int16)
    return quantify_labelmap(hu_kji, geometry=grid(labelmap.shape, spacing_ijk_mm), labelmap_kji=labelmap)


# --- volumes and POI -------------------------------------------------------------------------------


def test_boxes_give_their_volumes_and_poi_per_side():
    result = measured(boxes())
    assert result.right_lung.volume_ml == pytest.approx(1.0)
    assert result.right_lung.infection_ml == pytest.approx(0.25)
    assert result.right_lung.poi_percent == pytest.approx(25.0)
    assert result.left_lung.poi_percent == pytest.approx(10.0)
    assert result.lungs.volume_ml == pytest.approx(2.0)
    assert result.poi_percent == result.lungs.poi_percent == pytest.approx(17.5)


def test_anisotropic_voxels_change_volumes_but_not_poi():
    result = measured(boxes(), spacing_ijk_mm=(0.7, 0.9, 5.0))
    assert result.lungs.volume_ml == pytest.approx(2000 * 0.7 * 0.9 * 5.0 / 1000)
    assert result.lungs.infection_ml == pytest.approx(350 * 0.7 * 0.9 * 5.0 / 1000)
    assert result.poi_percent == pytest.approx(17.5)


def test_oblique_flipped_grid_gives_the_same_numbers():
    angle = math.radians(30)
    oblique = (math.cos(angle), math.sin(angle), 0.0, math.sin(angle), -math.cos(angle), 0.0, 0.0, 0.0, 1.0)
    labelmap, hu = boxes(), np.full(boxes().shape, -700, dtype=np.int16)
    straight = grid(labelmap.shape, ANISOTROPIC_MM)
    turned = Geometry(straight.size_ijk, ANISOTROPIC_MM, (5.0, -7.0, 11.0), oblique)
    assert quantify_labelmap(hu, geometry=turned, labelmap_kji=labelmap) == quantify_labelmap(
        hu, geometry=straight, labelmap_kji=labelmap
    )


@pytest.mark.parametrize("spacing_ijk_mm", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.6)])
def test_spheres_give_analytic_millilitres(spacing_ijk_mm):
    size_ijk = tuple(round(length / step) for length, step in zip((110, 50, 50), spacing_ijk_mm, strict=True))
    x, y, z = (
        np.arange(n)[shape] * step
        for n, step, shape in zip(
            size_ijk, spacing_ijk_mm, [np.s_[None, None, :], np.s_[None, :, None], np.s_[:, None, None]], strict=True
        )
    )

    def ball(center_x: float, radius: float) -> np.ndarray:
        return (x - center_x) ** 2 + (y - 25) ** 2 + (z - 25) ** 2 <= radius**2

    labelmap = np.zeros(size_ijk[::-1], dtype=np.uint8)
    labelmap[ball(27, 20)], labelmap[ball(82, 20)], labelmap[ball(82, 10)] = R, L, INF
    result = measured(labelmap, spacing_ijk_mm=spacing_ijk_mm)
    lung_ml, infection_ml = (4 / 3 * math.pi * radius**3 / 1000 for radius in (20, 10))
    assert result.right_lung.volume_ml == pytest.approx(lung_ml, rel=0.01)
    assert result.left_lung.infection_ml == pytest.approx(infection_ml, rel=0.02)
    assert result.left_lung.poi_percent == pytest.approx(12.5, rel=0.02)
    assert result.right_lung.poi_percent == 0.0


def test_no_infection_is_zero_percent_and_class_0():
    labelmap = boxes()
    labelmap[labelmap == INF] = 0
    result = measured(labelmap)
    assert result.poi_percent == result.left_lung.poi_percent == 0.0
    assert result.severity == Severity("CT-0", "CT-0")
    assert result.composition.ground_glass_ml == result.composition.consolidation_ml == 0.0


def test_missing_lung_is_undefined_and_the_other_takes_the_infection():
    labelmap = boxes()
    labelmap[:, :, 15:][labelmap[:, :, 15:] == L] = 0
    result = measured(labelmap)
    left = result.left_lung
    assert (left.volume_ml, left.infection_ml, left.poi_percent, left.mass_g) == (0.0, 0.0, None, None)
    assert set(left.hu.to_dict().values()) == {None}
    assert result.right_lung.infection_ml == pytest.approx(0.35)
    assert result.severity.worse_lung_class == severity_class(result.right_lung.poi_percent)
    assert result.warnings()[0] == "No left lung in the segmentation: its figures are n/a."


@pytest.mark.parametrize(("step_mm", "named"), [(9.9, ["495 ml"]), (10.1, []), (240.0, []), (241.0, ["12.1 litres"])])
def test_lungs_smaller_or_larger_than_an_adults_are_named(step_mm: float, named: list[str]):
    labelmap = np.full((10, 10, 10), R, dtype=np.uint8)
    labelmap[:, :, :4] = L
    geometry = Geometry((10, 10, 10), (5.0, 10.0, step_mm))
    result = quantify_labelmap(np.zeros(labelmap.shape, np.int16), geometry=geometry, labelmap_kji=labelmap)
    assert [warning.split(",")[0] for warning in result.warnings()] == [f"The lungs measure {size}" for size in named]


def test_infection_without_any_lung_is_measured_but_its_poi_is_undefined():
    labelmap = np.zeros((5, 5, 5), dtype=np.uint8)
    labelmap[1:3, 1:3, 1:3] = INF
    result = measured(labelmap)
    assert result.poi_percent is None
    assert result.lungs.infection_ml == pytest.approx(0.008)
    assert result.severity.to_dict() == {"class": None, "worse_lung_class": None, "definition": DEFINITION}
    assert result.warnings() == ("No lung in the segmentation: the percentage of infection is not defined.",)


def test_empty_labelmap_has_no_numbers():
    result = measured(np.zeros((3, 4, 5), dtype=np.uint8))
    assert result.poi_percent is None and result.lungs.volume_ml == 0.0 and result.lungs.hu.mean is None


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"labelmap has shape \(3, 3, 3\)"):
        quantify_labelmap(
            np.zeros((3, 3, 4), np.int16), geometry=grid((3, 3, 4)), labelmap_kji=np.zeros((3, 3, 3), np.uint8)
        )


# --- both forms ------------------------------------------------------------------------------------

small_labelmaps = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(0, 3))
spacings = st.tuples(*[st.sampled_from([0.6, 1.0, 2.5, 8.0])] * 3)


@settings(max_examples=80)
@given(labelmap=small_labelmaps, spacing_ijk_mm=spacings, seed=st.integers(0, 2**16))
def test_overlapping_form_gives_the_numbers_of_the_exclusive_form(labelmap, spacing_ijk_mm, seed):
    hu = np.random.default_rng(seed).integers(-1024, 200, labelmap.shape).astype(np.int16)
    geometry = grid(labelmap.shape, spacing_ijk_mm)
    whole = whole_lungs_labelmap(labelmap, geometry=geometry)
    overlapping = quantify(
        hu, geometry=geometry, left_kji=whole == L, right_kji=whole == R, infection_kji=labelmap == INF
    )
    assert overlapping == quantify_labelmap(hu, geometry=geometry, labelmap_kji=labelmap)


@settings(max_examples=80)
@given(labelmap=small_labelmaps, spacing_ijk_mm=spacings)
def test_sides_add_up_and_percentages_stay_in_range(labelmap, spacing_ijk_mm):
    result = measured(labelmap, spacing_ijk_mm=spacing_ijk_mm)
    if result.poi_percent is not None:
        assert 0.0 <= result.poi_percent <= 100.0
        for key in ("volume_ml", "infection_ml", "mass_g"):
            parts = [getattr(lung, key) or 0.0 for lung in (result.left_lung, result.right_lung)]
            assert sum(parts) == pytest.approx(getattr(result.lungs, key))


def test_voxel_claimed_by_both_lungs_counts_once_in_the_total():
    left, right = np.zeros((4, 4, 8), dtype=bool), np.zeros((4, 4, 8), dtype=bool)
    left[:, :, 3:], right[:, :, :4] = True, True  # 16 voxels in both
    infection = left & right
    result = quantify(
        np.zeros(left.shape, np.int16),
        geometry=grid(left.shape),
        left_kji=left,
        right_kji=right,
        infection_kji=infection,
    )
    assert result.lungs.volume_ml == pytest.approx(0.128)
    assert result.poi_percent == pytest.approx(100 * 16 / 128)
    assert result.left_lung.poi_percent == pytest.approx(100 * 16 / 80)
    assert result.right_lung.poi_percent == pytest.approx(100 * 16 / 64)


def test_infection_painted_outside_overlapping_lungs_enlarges_the_nearer_lung():
    left, right, infection = (np.zeros((6, 6, 20), dtype=bool) for _ in range(3))
    right[:, :, 2:6], left[:, :, 14:18], infection[:, :, 7:9] = True, True, True
    result = quantify(
        np.zeros(left.shape, np.int16),
        geometry=grid(left.shape),
        left_kji=left,
        right_kji=right,
        infection_kji=infection,
    )
    assert result.right_lung.poi_percent == pytest.approx(100 * 72 / (144 + 72))
    assert result.left_lung.poi_percent == 0.0


def test_inputs_are_not_modified():
    labelmap, hu = boxes(), np.zeros(boxes().shape, np.int16)
    labelmap.flags.writeable = hu.flags.writeable = False
    quantify_labelmap(hu, geometry=grid(hu.shape), labelmap_kji=labelmap)


# --- the nearer lung -------------------------------------------------------------------------------


def nearer_by_brute_force(labelmap: np.ndarray, spacing_ijk_mm: tuple[float, float, float]) -> np.ndarray:
    """Whole lungs by the plain definition: every infected voxel against every lung voxel."""
    spacing = np.array(spacing_ijk_mm[::-1])
    points = {label: np.argwhere(labelmap == label) * spacing for label in (L, R)}
    whole = np.where(labelmap == INF, 0, labelmap)
    for index in np.argwhere(labelmap == INF):
        distance = {
            label: np.linalg.norm(lung - index * spacing, axis=1).min() if len(lung) else np.inf
            for label, lung in points.items()
        }
        if min(distance.values()) < np.inf:
            whole[tuple(index)] = L if distance[L] <= distance[R] + 1e-6 else R
    return whole


@settings(max_examples=60)
@given(
    spacing_ijk_mm=st.tuples(*[st.sampled_from([0.4, 0.75, 1.3, 5.0])] * 3),
    seed=st.integers(0, 2**20),
    lung_share=st.sampled_from([0.0005, 0.01, 0.2]),
)
def test_nearer_lung_is_exact(spacing_ijk_mm, seed, lung_share):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 24, 3))
    labelmap = rng.choice([0, L, R, INF], size=shape, p=[0.9 - 2 * lung_share, lung_share, lung_share, 0.1]).astype(
        np.uint8
    )
    whole = whole_lungs_labelmap(labelmap, geometry=grid(shape, spacing_ijk_mm))
    np.testing.assert_array_equal(whole, nearer_by_brute_force(labelmap, spacing_ijk_mm))


def test_nearer_is_meant_in_millimetres_not_in_voxels():
    labelmap = np.zeros((9, 1, 9), dtype=np.uint8)
    labelmap[0, 0, 4], labelmap[4, 0, 0], labelmap[4, 0, 4] = L, R, INF  # both 4 voxels away
    assert whole_lungs_labelmap(labelmap, geometry=grid(labelmap.shape, (1.0, 1.0, 2.0)))[4, 0, 4] == R
    assert whole_lungs_labelmap(labelmap, geometry=grid(labelmap.shape, (2.0, 1.0, 1.0)))[4, 0, 4] == L


def test_equal_distances_go_to_the_left_lung():
    labelmap = np.zeros((1, 1, 41), dtype=np.uint8)
    labelmap[0, 0, 0], labelmap[0, 0, 40], labelmap[0, 0, 20] = R, L, INF
    assert whole_lungs_labelmap(labelmap, geometry=grid(labelmap.shape, (0.1, 1.0, 1.0)))[0, 0, 20] == L


@pytest.mark.parametrize("lung", [L, R])
@pytest.mark.parametrize("flip", [False, True])
def test_single_lung_takes_all_infection_however_far_away(lung: int, flip: bool):
    labelmap = np.zeros((1, 1, 60), dtype=np.uint8)
    labelmap[0, 0, :3], labelmap[0, 0, 50:] = INF, lung
    labelmap = labelmap[:, :, ::-1] if flip else labelmap
    whole = whole_lungs_labelmap(labelmap, geometry=grid(labelmap.shape, (4.0, 1.0, 1.0)))
    np.testing.assert_array_equal(whole, np.where(labelmap > 0, lung, 0))


def test_infection_inside_a_lung_stays_there_even_if_the_other_is_close():
    left, right, infection = (np.zeros((3, 3, 9), dtype=bool) for _ in range(3))
    right[:, :, :4], left[:, :, 4:], infection[1, 1, 3] = True, True, True
    to_left, to_right = assign_infection_to_lungs(infection, left_kji=left, right_kji=right, geometry=grid(left.shape))
    assert not to_left.any() and to_right.sum() == 1 and to_right[1, 1, 3]


def test_nothing_is_assigned_without_lungs():
    infection, nothing = np.ones((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=bool)
    assigned = assign_infection_to_lungs(infection, left_kji=nothing, right_kji=nothing, geometry=grid((2, 2, 2)))
    assert not assigned[0].any() and not assigned[1].any()


def test_grown_box_ends_where_the_array_does() -> None:
    box = (slice(2, 4), slice(2, 4), slice(1, 9))
    assert grown(box, margin_kji=(1, 2, 3), shape_kji=(10, 10, 10)) == (slice(1, 5), slice(0, 6), slice(0, 10))
    assert grown(box, margin_kji=(3, 6, 0), shape_kji=(7, 9, 10)) == (slice(0, 7), slice(0, 9), slice(1, 9))


@given(array=hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 1)))
def test_bounding_box_is_tight(array):
    box = bounding_box(array)
    if box is None:
        assert not array.any()
    else:
        assert array[box].sum() == array.sum()
        assert [(part.start, part.stop - 1) for part in box] == [(u.min(), u.max()) for u in np.nonzero(array)]


# --- density ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
def test_density_equals_numpy_for_any_type(dtype):
    rng = np.random.default_rng(3)
    labelmap = boxes()
    hu = (rng.normal(-700, 200, labelmap.shape)).astype(dtype)
    result = quantify_labelmap(hu, geometry=grid(labelmap.shape, ANISOTROPIC_MM), labelmap_kji=labelmap)
    in_lungs = hu[labelmap > 0].astype(float)
    assert result.lungs.hu.mean == pytest.approx(in_lungs.mean(), abs=1e-3)
    found = [result.lungs.hu.p10, result.lungs.hu.median, result.lungs.hu.p90]
    np.testing.assert_allclose(found, np.percentile(in_lungs, [10, 50, 90]), rtol=0, atol=1e-3)
    assert result.lungs.mass_g == pytest.approx(((in_lungs + 1000) / 1000).sum() * 0.001, rel=1e-5)


def test_mass_of_known_density():
    result = measured(boxes(), hu=-750, spacing_ijk_mm=(1.0, 1.0, 2.0))
    assert result.left_lung.mass_g == pytest.approx(2.0 * 0.25)  # 2 ml of 0.25 g/ml


def test_composition_cuts_at_the_stated_values():
    labelmap = np.full((1, 1, 10), L, dtype=np.uint8)
    labelmap[0, 0, 6:] = INF
    hu = np.array([-951, -950, -700, -699, 0, -300, -301, -300, 40, -951], dtype=np.int16).reshape(1, 1, 10)
    found = quantify_labelmap(hu, geometry=grid(hu.shape, (10.0, 10.0, 10.0)), labelmap_kji=labelmap).composition
    assert (found.ground_glass_ml, found.consolidation_ml) == (2.0, 2.0)
    assert (found.well_aerated_ml, found.low_attenuation_ml) == (2.0, 2.0)
    moved = quantify_labelmap(
        hu, geometry=grid(hu.shape, (10.0, 10.0, 10.0)), labelmap_kji=labelmap, consolidation_from_hu=0
    )
    assert (moved.composition.ground_glass_ml, moved.composition.consolidation_ml) == (3.0, 1.0)


# --- severity --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("poi_percent", "expected"),
    [
        (None, None),
        (0.0, "CT-0"),
        (0.09999, "CT-0"),
        (0.1, "CT-1"),
        (25.0, "CT-1"),
        (25.0001, "CT-2"),
        (50.0, "CT-2"),
        (50.0001, "CT-3"),
        (75.0, "CT-3"),
        (75.0001, "CT-4"),
        (100.0, "CT-4"),
    ],
)
def test_severity_class_at_its_boundaries(poi_percent, expected):
    assert severity_class(poi_percent) == expected


def test_worse_lung_may_have_a_higher_class_than_both_together():
    labelmap = np.zeros((10, 10, 30), dtype=np.uint8)
    labelmap[:, :, :10], labelmap[:, :, 20:] = R, L
    labelmap[:, :6, :10] = INF
    assert measured(labelmap).severity == Severity("CT-2", "CT-3")


def test_definition_says_that_the_original_is_a_visual_grade():
    assert "MosMed" in DEFINITION and "visual grade" in DEFINITION and "worse" in DEFINITION


def test_dictionary_has_the_report_keys():
    result = measured(boxes()).to_dict()
    assert list(result) == ["poi_percent", "regions", "composition", "severity"]
    assert list(result["regions"]) == ["lungs", "left_lung", "right_lung"]
    assert list(result["regions"]["lungs"]) == ["volume_ml", "infection_ml", "poi_percent", "hu", "mass_g"]
    assert list(result["regions"]["lungs"]["hu"]) == ["mean", "median", "p10", "p90"]
    assert {"ground_glass_ml", "consolidation_ml"} <= set(result["composition"])
    assert list(result["severity"]) == ["class", "worse_lung_class", "definition"]


@pytest.mark.slow
def test_full_size_case_is_fast_and_bounded():
    import resource
    import time

    geometry = Geometry((512, 512, 600), (0.7, 0.7, 0.6))
    labelmap = np.zeros(geometry.shape_kji, dtype=np.uint8)
    labelmap[40:560, 100:400, 60:230], labelmap[40:560, 100:400, 270:440] = R, L
    labelmap[100:500, 300:390, 90:410] = INF
    hu = np.full(geometry.shape_kji, -800, dtype=np.int16)
    before_kib, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    result = quantify_labelmap(hu, geometry=geometry, labelmap_kji=labelmap)
    assert result.left_lung.infection_ml == pytest.approx(result.right_lung.infection_ml)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 2 * 1024**2
    assert time.process_time() - start_s < 30.0
