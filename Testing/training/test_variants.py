from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from CovidSegLib.geometry import Geometry
from CovidSegLib.volume import CTVolume

from CovidSegTraining.quality import variants


@pytest.fixture
def ct() -> CTVolume:
    """A small oblique CT whose HU are a linear function of the position in the patient."""
    angle = np.deg2rad(12)
    direction = (np.cos(angle), -np.sin(angle), 0.0, np.sin(angle), np.cos(angle), 0.0, 0.0, 0.0, 1.0)
    geometry = Geometry((14, 12, 10), (1.5, 1.0, 4.0), (-20.0, 7.0, 30.0), tuple(float(v) for v in direction))
    return CTVolume(_ramp(geometry), geometry, name="ramp", fingerprint="sha256:0")


def _ramp(geometry: Geometry) -> np.ndarray:
    i, j, k = geometry.size_ijk
    index = np.stack(
        [a.ravel() for a in np.meshgrid(range(i), range(j), range(k), indexing="ij")] + [np.ones(i * j * k)]
    )
    x, y, z = (geometry.ijk_to_lps @ index)[:3]
    hu = np.rint(10 * x + 3 * y - 7 * z).reshape(i, j, k).transpose(2, 1, 0)
    return np.ascontiguousarray(hu).astype(np.int16)


def _assert_values_stay_in_place(variant: CTVolume, *, inner: int = 0, tolerance_hu: float = 1.01) -> None:
    box = (slice(inner, -inner or None),) * 3
    np.testing.assert_allclose(variant.hu_kji[box], _ramp(variant.geometry)[box], atol=tolerance_hu)


def test_flipped_and_swapped_values_stay_where_they_are_in_the_patient(ct: CTVolume) -> None:
    names = []
    for name, variant in variants.storage_variants(ct):
        names.append(name)
        assert variant.hu_kji.shape == variant.geometry.shape_kji
        _assert_values_stay_in_place(variant)
        assert not np.array_equal(variant.geometry.ijk_to_lps, ct.geometry.ijk_to_lps)
    assert names == ["i flipped", "j flipped", "k flipped", "i and j swapped", "i and k swapped"]


def test_flipping_is_what_simpleitk_does(ct: CTVolume) -> None:
    import SimpleITK as sitk

    image = sitk.Flip(ct.geometry.to_sitk(ct.hu_kji), [True, False, False], False)
    flipped = variants.flip(ct, axis_ijk=0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), flipped.hu_kji)
    assert Geometry.from_sitk(image).is_close_to(flipped.geometry)


def test_swapping_axes_is_what_simpleitk_does(ct: CTVolume) -> None:
    import SimpleITK as sitk

    order = (2, 0, 1)
    image = sitk.PermuteAxes(ct.geometry.to_sitk(ct.hu_kji), order)
    permuted = variants.permute(ct, order_ijk=order)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), permuted.hu_kji)
    assert Geometry.from_sitk(image).is_close_to(permuted.geometry)


@pytest.mark.parametrize("thickness_mm", [2.0, 5.0, 8.0])
def test_resliced_values_stay_in_place(ct: CTVolume, thickness_mm: float) -> None:
    variant = variants.reslice(ct, thickness_mm=thickness_mm)
    assert variant.geometry.spacing_ijk_mm == (1.5, 1.0, thickness_mm)
    # 7 HU per mm along the slices: within a third of a millimetre.
    _assert_values_stay_in_place(variant, inner=2 if thickness_mm < 4 else 1, tolerance_hu=2.4)


def test_thickness_is_along_head_and_foot_however_it_is_stored(ct: CTVolume) -> None:
    variant = variants.reslice(variants.permute(ct, order_ijk=(2, 1, 0)), thickness_mm=8.0)
    assert variant.geometry.spacing_ijk_mm == (8.0, 1.0, 1.5)


def test_shifted_rotated_and_cropped_values_stay_in_place(ct: CTVolume) -> None:
    shifted = variants.shift(ct, voxels=0.5)
    np.testing.assert_allclose(
        shifted.geometry.ijk_to_lps @ [0, 0, 0, 1], ct.geometry.ijk_to_lps @ [0.5, 0.5, 0.5, 1], atol=1e-9
    )
    np.testing.assert_allclose(shifted.hu_kji[:-1, :-1, :-1], _ramp(shifted.geometry)[:-1, :-1, :-1], atol=1.01)

    rotated = variants.rotate(ct, degrees=10)
    inside = rotated.hu_kji > variants.AIR_HU
    assert 0.6 < inside.mean() < 1.0
    # The outermost half voxel has no second neighbour to interpolate with.
    assert (np.abs(rotated.hu_kji - _ramp(rotated.geometry))[inside] <= 1.01).mean() > 0.95
    between = np.rad2deg(np.arccos(rotated.geometry.direction_matrix[:, 0] @ ct.geometry.direction_matrix[:, 0]))
    assert between == pytest.approx(10.0)

    mask = np.zeros(ct.hu_kji.shape, dtype=bool)
    mask[4:6, 6:7, 7:9] = True
    cropped = variants.crop_to_mask(ct, mask_kji=mask)
    # 5 mm of margin: 1 slice, 5 rows, 3 columns on either side.
    assert cropped.hu_kji.shape == (4, 11, 8)
    _assert_values_stay_in_place(cropped)


def test_noise_has_its_sigma_and_seed(ct: CTVolume) -> None:
    noisy = variants.add_noise(ct, sigma_hu=20.0, seed=1)
    difference = noisy.hu_kji.astype(float) - ct.hu_kji
    assert difference.std() == pytest.approx(20.0, rel=0.1)
    np.testing.assert_array_equal(noisy.hu_kji, variants.add_noise(ct, sigma_hu=20.0, seed=1).hu_kji)


def test_labels_on_another_grid_are_those_at_the_same_place(ct: CTVolume) -> None:
    labels = np.random.default_rng(0).integers(0, 4, ct.hu_kji.shape).astype(np.uint8)
    for _, variant in variants.storage_variants(ct):
        moved, covered = variants.labels_on(labels, geometry=ct.geometry, target=variant.geometry)
        assert covered.all()
        back, _ = variants.labels_on(moved, geometry=variant.geometry, target=ct.geometry)
        np.testing.assert_array_equal(back, labels)


def test_labels_beyond_the_grid_are_background_and_not_covered(ct: CTVolume) -> None:
    labels = np.ones(ct.hu_kji.shape, dtype=np.uint8)
    target = variants.shift(ct, voxels=3.0).geometry
    moved, covered = variants.labels_on(labels, geometry=ct.geometry, target=target)
    assert covered[:-3, :-3, :-3].all() and not covered[-3:].any()
    np.testing.assert_array_equal(moved, covered.astype(np.uint8))


def test_robustness_variants_are_those_of_the_list(ct: CTVolume) -> None:
    labels = np.zeros(ct.hu_kji.shape, dtype=np.uint8)
    labels[4:6, 4:6, 4:6] = 1
    names = [name for name, _ in variants.robustness_variants(ct, labelmap_kji=labels)]
    assert names == [
        "1 mm slices",
        "3 mm slices",
        "5 mm slices",
        "8 mm slices",
        "half a voxel shifted",
        "noise 20 HU",
        "noise 50 HU",
        "cropped to the lungs",
        "rotated 10 degrees",
        "picture of -1350..150 HU",
        "picture of -1200..400 HU",
        "picture of -1100..200 HU",
        "picture of -1000..400 HU",
    ]


def test_picture_shows_its_window_in_256_greys(ct: CTVolume) -> None:
    values = np.array([-2000, -1350, -600, 150, 3000], dtype=np.int16).reshape(1, 1, 5)
    picture = variants.as_picture(replace(ct, hu_kji=values), window_hu=(-1350.0, 150.0))
    assert picture.hu_kji.dtype == np.uint8
    assert picture.hu_kji.ravel().tolist() == [0, 0, 128, 255, 255]
