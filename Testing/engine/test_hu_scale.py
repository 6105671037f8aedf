"""A CT whose air is not at -1000 HU is put back on the scale; one from a scanner never is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from CovidSegLib.anatomy.chest_masks import in_plane_border
from CovidSegLib.anatomy.hu_scale import SOFT_TISSUE_HU, HuScale, _outer_air_is_right, rescale, wrong_scale
from CovidSegLib.errors import InputError
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.phantom import Phantom, make_phantom
from CovidSegLib.volume import CTVolume
from helpers_phantom import reordered, reordered_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

#: Lower end and width (HU) of windows that lung CTs are published in.
WINDOWS = [(-1350.0, 1500.0), (-1400.0, 1600.0), (-1200.0, 1600.0), (-1100.0, 1300.0), (-1000.0, 1400.0)]


@cache
def patient(*, seed: int = 2) -> CTVolume:
    """Return a whole chest with the air around it."""
    return _phantom(seed).ct


@cache
def patient_in_air(*, seed: int = 2) -> CTVolume:
    """Return a whole chest in an image without padding."""
    ct = patient(seed=seed)
    air = -1000 + np.random.default_rng(1).normal(size=ct.hu_kji.shape) * 10
    return replace(ct, hu_kji=np.where(ct.hu_kji == -1024, np.rint(air), ct.hu_kji).astype(ct.hu_kji.dtype))


@cache
def lungs_of_patient(*, seed: int = 2) -> CTVolume:
    """Return the same CT cropped to the lungs; the trachea is the only large air."""
    used = np.nonzero(_phantom(seed).labelmap_kji)
    ct = patient(seed=seed)
    part = ct.hu_kji[tuple(slice(n.min(), n.max() + 1) for n in used)]
    return replace(ct, hu_kji=part, geometry=replace(ct.geometry, size_ijk=part.shape[::-1]))


@cache
def _phantom(seed: int) -> Phantom:
    return make_phantom(seed=seed, size_ijk=(160, 128, 100), spacing_ijk_mm=(2.4, 2.4, 3.0), infection_percent=15.0)


def published(ct: CTVolume, *, lower: float, width: float) -> CTVolume:
    """Return the CT as 8-bit grey of a window."""
    grey = np.clip(np.rint((ct.hu_kji - lower) * (255.0 / width)), 0, 255)
    return replace(ct, hu_kji=grey.astype(np.uint8))


def error_hu(found: CTVolume, ct: CTVolume, *, lower: float, width: float) -> float:
    """Return the mean error of all voxels that the window did not cut off."""
    shown = (ct.hu_kji > max(lower, -1000.0)) & (ct.hu_kji < min(lower + width, 150.0))
    return float(np.abs(found.hu_kji.astype(float) - ct.hu_kji)[shown].mean())


@pytest.mark.parametrize("is_guess", [False, True])
@pytest.mark.parametrize("noise_hu", [0, 25, 50])
@pytest.mark.parametrize("ct_of", [patient, lungs_of_patient])
def test_hu_of_a_scanner_are_left_alone_however_noisy(
    ct_of: Callable[[], CTVolume], noise_hu: int, is_guess: bool
) -> None:
    ct = ct_of()
    noise = np.random.default_rng(0).normal(size=ct.hu_kji.shape) * noise_hu
    is_padding = ct.hu_kji == -1024
    noisy = np.where(is_padding, -1024, np.rint(ct.hu_kji + noise)).astype(np.int16)
    assert wrong_scale(noisy, geometry=ct.geometry, is_guess=is_guess) is None


@pytest.mark.parametrize("side_mm", [12, 15])
def test_dark_artefact_in_the_body_does_not_move_the_scale(side_mm: int) -> None:
    ct = patient_in_air()
    hu = ct.hu_kji.copy()
    soft = (hu > -150) & (hu < 400)
    for axis, mm in enumerate(ct.geometry.spacing_ijk_mm[::-1]):
        soft = ndimage.minimum_filter1d(soft, round(side_mm / mm) | 1, axis=axis)  # where the artefact fits in
    k, j, i = np.argwhere(soft)[soft.sum() // 2]
    dk, dj, di = (round(side_mm / mm) // 2 for mm in ct.geometry.spacing_ijk_mm[::-1])
    hu[k - dk : k + dk + 1, j - dj : j + dj + 1, i - di : i + di + 1] = -1300
    assert wrong_scale(hu, geometry=ct.geometry) is None
    assert to_hounsfield(replace(ct, hu_kji=hu)).hu_kji is hu


@pytest.mark.parametrize("noise_hu", [60, 80, 100])
def test_noise_that_no_floor_cuts_off_does_not_move_the_scale(noise_hu: int) -> None:
    ct = patient_in_air()
    noise = np.random.default_rng(0).normal(size=ct.hu_kji.shape) * noise_hu
    assert wrong_scale((ct.hu_kji + noise).astype(np.int16), geometry=ct.geometry) is None


@pytest.mark.parametrize(
    ("outer_hu", "volume_ml", "spread_hu", "is_right"),
    [
        (-1000, 60.0, 10, True),
        (-1035, 60.0, 10, True),
        (-965, 60.0, 10, True),
        (-1045, 60.0, 10, False),
        (-955, 60.0, 10, False),
        (-1000, 9.0, 10, False),
        (-1000, 60.0, 80, False),  # lung that the border cuts, on a wrong scale
    ],
)
def test_air_around_the_body_tells_whether_the_scale_is_right(
    outer_hu: int, volume_ml: float, spread_hu: int, *, is_right: bool
) -> None:
    means = np.full((10, 20, 20), 50.0, dtype=np.float32)
    border = in_plane_border(means.shape)
    means[border] = outer_hu + spread_hu * np.random.default_rng(0).standard_normal(border.sum())
    found = _outer_air_is_right(means, padding=np.zeros(means.shape, dtype=bool), block_ml=volume_ml / border.sum())
    assert found is is_right


@pytest.mark.parametrize("air_hu", [-1390, -1201, -1100, -1063, -1061])
def test_level_of_the_air_in_an_airway_is_found_however_low(air_hu: int) -> None:
    body = np.random.default_rng(0).normal(50, 5, (10, 40, 40)).astype(np.int16)
    body[:, 15:25, 15:25] = air_hu
    geometry = replace(patient().geometry, size_ijk=(40, 40, 10))
    scale = wrong_scale(body, geometry=geometry)
    assert scale is not None
    assert scale.air == pytest.approx(air_hu, abs=3.0)
    assert scale.soft_tissue == pytest.approx(50.0, abs=10.0)


@pytest.mark.parametrize(
    ("air_hu", "tissue_hu", "is_wrong", "is_wrong_as_guess"),
    [
        (-1055, 50, False, True),
        (-1025, 50, False, False),
        (-1035, 50, False, True),
        (-945, 100, False, False),
        (-935, 100, False, True),
        (-935, 65, False, False),
    ],
)
def test_less_is_believed_of_a_guess(air_hu: int, tissue_hu: int, *, is_wrong: bool, is_wrong_as_guess: bool) -> None:
    body = np.random.default_rng(0).normal(tissue_hu, 5, (10, 40, 40)).astype(np.int16)
    body[:, 16:24, 16:24] = air_hu
    geometry = replace(patient().geometry, size_ijk=(40, 40, 10))
    for is_guess, expected in ((False, is_wrong), (True, is_wrong_as_guess)):
        assert (wrong_scale(body, geometry=geometry, is_guess=is_guess) is not None) == expected


@pytest.mark.parametrize(("width", "is_found"), [(2, False), (4, True)], ids=["0.7 ml", "2.8 ml"])
def test_airway_holds_a_millilitre_in_one_piece(width: int, *, is_found: bool) -> None:
    body = np.random.default_rng(0).normal(50, 5, (10, 40, 40)).astype(np.int16)
    body[:, 16 : 16 + width, 16 : 16 + width] = -1200  # 30 mm long
    body[:, 30:32, 30:32] = -1200
    geometry = replace(patient().geometry, size_ijk=(40, 40, 10))
    assert (wrong_scale(body, geometry=geometry) is not None) == is_found


@pytest.mark.parametrize("padding_hu", [-1100, -1500, -2000, -3024, 0, 250, 3000])
@pytest.mark.parametrize("edge", ["exact", "smoothed", "resampled", "lossy"])
def test_padding_and_its_edge_are_not_taken_for_air(padding_hu: int, edge: str) -> None:
    ct = patient()
    hu = ct.hu_kji.astype(np.float32)
    j, i = np.mgrid[: hu.shape[1], : hu.shape[2]]
    hu[:, (j - hu.shape[1] / 2) ** 2 + (i - hu.shape[2] / 2) ** 2 > (0.49 * hu.shape[1]) ** 2] = padding_hu
    geometry = ct.geometry
    if edge == "smoothed":
        hu = ndimage.gaussian_filter(hu, (0, 1, 1))
    elif edge == "resampled":
        hu = ndimage.zoom(hu, (1, 0.77, 0.77), order=1)
        spacing = geometry.spacing_ijk_mm
        spacing = (spacing[0] / 0.77, spacing[1] / 0.77, spacing[2])
        geometry = replace(geometry, size_ijk=hu.shape[::-1], spacing_ijk_mm=spacing)
    elif edge == "lossy":
        hu += np.random.default_rng(0).normal(0.0, 4.0, hu.shape)
    assert wrong_scale(np.rint(hu).astype(np.int16), geometry=geometry) is None


def test_values_beyond_the_type_stay_at_its_end() -> None:
    geometry = replace(patient().geometry, size_ijk=(12, 12, 4))
    metal = np.arange(30000, 30000 + 4 * 12 * 12, dtype=np.int16).reshape(4, 12, 12)
    assert rescale(metal, geometry=geometry, scale=HuScale(air=-1250.0, soft_tissue=-465.0, factor=1.34)).max() == 32767


def test_lung_cut_by_the_border_is_not_taken_for_air() -> None:
    ct = patient()
    lung = ct.hu_kji[40:70, 50:75, 100:115]
    assert np.median(lung) < -750, "the part is meant to be lung"
    part = replace(ct, hu_kji=lung, geometry=replace(ct.geometry, size_ijk=lung.shape[::-1]))
    assert wrong_scale(part.hu_kji, geometry=part.geometry) is None


@pytest.mark.parametrize(("lower", "width"), WINDOWS)
@pytest.mark.parametrize("ct_of", [patient, lungs_of_patient])
def test_grey_of_any_lung_window_comes_back_to_hu(ct_of: Callable[[], CTVolume], lower: float, width: float) -> None:
    ct = ct_of()
    found = to_hounsfield(published(ct, lower=lower, width=width))
    assert error_hu(found, ct, lower=lower, width=width) < 40.0


@settings(max_examples=10)
@given(lower=st.floats(-1130.0, -1080.0), width=st.floats(1230.0, 1450.0), seed=st.sampled_from((2, 5)))
def test_air_and_soft_tissue_give_back_the_scale(lower: float, width: float, seed: int) -> None:
    ct = patient(seed=seed)
    wrong = np.rint((ct.hu_kji - lower) * (1500.0 / width) - 1250.0).astype(np.int16)
    scale = wrong_scale(wrong, geometry=ct.geometry)
    assert scale is not None
    assert scale.factor == pytest.approx(width / 1500.0, rel=0.08)


@pytest.mark.parametrize(("lower", "width"), [(-160.0, 400.0), (-1000.0, 650.0), (-1120.0, 1200.0)])
def test_pictures_that_lost_the_density_of_lungs_or_soft_tissue_are_refused(lower: float, width: float) -> None:
    with pytest.raises(InputError, match=r"(all black or soft tissue all white|no lungs found).*Export the CT again"):
        to_hounsfield(published(lungs_of_patient(), lower=lower, width=width))


def test_grey_read_with_the_wrong_window_says_what_was_done() -> None:
    ct = lungs_of_patient()
    found = to_hounsfield(published(ct, lower=-1100.0, width=1300.0))
    assert error_hu(found, ct, lower=-1100.0, width=1300.0) < 30.0
    assert "another scale than HU" in found.warnings[-1] and "soft tissue 50" in found.warnings[-1]


def test_hu_already_made_of_grey_with_the_wrong_window_are_rescaled() -> None:
    ct = lungs_of_patient()
    wrong = np.rint(ct.hu_kji * (1500.0 / 1300.0)).astype(np.int16)
    found = to_hounsfield(replace(ct, hu_kji=wrong))
    assert found.hu_kji.dtype == np.int16
    assert np.abs(found.hu_kji.astype(float) - ct.hu_kji).mean() < 30.0


def test_no_scale_is_taken_that_shows_no_lungs() -> None:
    ct = lungs_of_patient()
    wrong = replace(ct, hu_kji=np.rint(ct.hu_kji * (1500.0 / 1300.0)).astype(np.int16))
    assert wrong_scale(wrong.hu_kji, geometry=wrong.geometry) is not None
    assert to_hounsfield(wrong, lungs_found=lambda hu_kji, geometry: False) is wrong


def test_air_that_reads_too_high_is_believed_of_a_scanner_and_not_of_grey() -> None:
    ct = lungs_of_patient()
    high = (ct.hu_kji + 120).astype(np.int16)
    assert wrong_scale(high, geometry=ct.geometry) is None
    scale = wrong_scale(high, geometry=ct.geometry, is_guess=True)
    assert scale is not None and scale.air > -920 and scale.soft_tissue > 120


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_rescaling_puts_air_and_soft_tissue_right_and_leaves_padding(dtype: type) -> None:
    values = np.full((4, 12, 12), -1150, dtype=dtype)
    values[:, :8] = -2000
    values[:, 9:] = 65
    values[:, 8, 5] = -2147
    geometry = replace(patient().geometry, size_ijk=(12, 12, 4))
    factor = 1050.0 / 1215.0
    scaled = rescale(values, geometry=geometry, scale=HuScale(air=-1150.0, soft_tissue=65.0, factor=factor))
    assert scaled.dtype == dtype
    assert np.all(scaled[:, :8] == -2000)
    np.testing.assert_allclose(scaled[:, 8, :5], -1000.0, atol=0.6)
    np.testing.assert_allclose(scaled[:, 9:], SOFT_TISSUE_HU, atol=0.6)
    assert np.all(scaled[:, 8, 5] != -2000), "what is no padding must not become padding"
    assert values[0, 8, 0] == -1150, "the input is not modified"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_scale_does_not_depend_on_how_the_axes_are_stored(order: tuple[int, int, int]) -> None:
    ct = lungs_of_patient()
    wrong = np.rint(ct.hu_kji * (1500.0 / 1300.0)).astype(np.int16)
    straight = wrong_scale(wrong, geometry=ct.geometry)
    stored = reordered_ct(replace(ct, hu_kji=wrong), order=order, flips=(True, False, True))
    assert straight is not None
    assert wrong_scale(stored.hu_kji, geometry=stored.geometry) == straight
    np.testing.assert_array_equal(
        rescale(stored.hu_kji, geometry=stored.geometry, scale=straight),
        reordered(rescale(wrong, geometry=ct.geometry, scale=straight), order=order, flips=(True, False, True)),
    )


def test_volume_smaller_than_the_airways_has_no_scale() -> None:
    ct = patient()
    geometry = replace(ct.geometry, size_ijk=(2, 2, 2))
    assert wrong_scale(ct.hu_kji[:2, :2, :2], geometry=geometry) is None
