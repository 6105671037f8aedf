"""Grey and offset CTs are mapped to HU with a warning, and only if lungs show up."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.intensity import grey_to_hu, is_grey, is_offset, offset_to_hu, to_hounsfield
from CovidSegLib.volume import CTVolume
from helpers_ct_files import tiny_geometry, tiny_hu


def chest_kji(*, seed: int = 0) -> np.ndarray:
    """Return (16, 24, 24) int16 HU: air, a body, and two boxes of lung in it, with noise."""
    hu = np.full((16, 24, 24), -1000.0)
    hu[:, 3:21, 2:22] = 40.0
    hu[2:14, 6:18, 4:11] = hu[2:14, 6:18, 13:20] = -820.0
    return np.rint(hu + np.random.default_rng(seed).normal(0, 15, hu.shape)).astype(np.int16)


def ct_of(values_kji: np.ndarray, *, warnings: tuple[str, ...] = ()) -> CTVolume:
    """Return a CT called case1 of the values."""
    k, j, i = values_kji.shape
    return CTVolume(values_kji, tiny_geometry(size_ijk=(i, j, k)), "case1", "sha256:0", warnings)


def lungs_found(hu_kji: np.ndarray, geometry: Geometry) -> bool:
    """Tell whether the boxes of `chest_kji` are lung and the rest of the body is not."""
    assert hu_kji.shape == geometry.shape_kji
    return bool(-950 < np.median(hu_kji[2:14, 6:18, 4:11]) < -600 and -100 < np.median(hu_kji[:, 3:6, 2:22]) < 150)


def never(hu_kji: np.ndarray, geometry: Geometry) -> bool:
    """Find no lungs."""
    return False


def unasked(hu_kji: np.ndarray, geometry: Geometry) -> bool:
    """Fail if anybody asks."""
    raise AssertionError("a CT in HU needs no mapping")


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_ct_in_hu_is_returned_unchanged(kind: type) -> None:
    ct = ct_of(chest_kji().astype(kind))
    assert to_hounsfield(ct, lungs_found=unasked) is ct


def test_ct_in_hu_with_padding_is_returned_unchanged() -> None:
    values = chest_kji()
    values[:, :2] = -3024
    ct = ct_of(values)
    assert to_hounsfield(ct, lungs_found=unasked) is ct


def test_grey_is_mapped_as_in_the_paper() -> None:
    grey = np.arange(256, dtype=np.int16).reshape(4, 8, 8)
    expected = -1250 + np.arange(256) * 1500 / 255
    mapped = grey_to_hu(grey)
    assert mapped.dtype == np.int16
    np.testing.assert_allclose(mapped.ravel(), expected, atol=0.5)
    assert (mapped.min(), mapped.max()) == (-1250, 250)


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_grey_chest_comes_back_within_half_a_grey_step_and_warns(kind: type) -> None:
    hu = np.clip(chest_kji(), -1250, 250)
    grey = np.rint((hu + 1250.0) * 255 / 1500).astype(kind)
    ct = to_hounsfield(ct_of(grey, warnings=("earlier",)), lungs_found=lungs_found)
    assert np.abs(ct.hu_kji - hu).max() <= 1500 / 255 / 2 + 0.5
    assert ct.hu_kji.dtype == np.int16
    assert ct.warnings[0] == "earlier"
    assert "8-bit grey" in ct.warnings[1] and "-1250..250 HU" in ct.warnings[1]
    assert (ct.name, ct.fingerprint) == ("case1", "sha256:0")


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_offset_chest_comes_back_exactly_and_warns(kind: type) -> None:
    hu = np.maximum(chest_kji(), -1024)
    ct = to_hounsfield(ct_of((hu.astype(np.int32) + 1024).astype(kind)), lungs_found=lungs_found)
    np.testing.assert_array_equal(ct.hu_kji, hu)
    assert ct.hu_kji.dtype == kind
    assert "1024 was subtracted" in ct.warnings[0]


@pytest.mark.parametrize("padding", [-2000, -1024, -32768])
def test_offset_chest_with_padding_becomes_air_there(padding: int) -> None:
    hu = np.maximum(chest_kji(), -1024)
    stored = hu + 1024
    stored[:, :2] = padding
    ct = to_hounsfield(ct_of(stored.astype(np.int16)), lungs_found=lungs_found)
    assert np.all(ct.hu_kji[:, :2] == -1024)
    np.testing.assert_array_equal(ct.hu_kji[:, 2:], hu[:, 2:])


def test_few_voxels_of_undershoot_do_not_hide_an_offset() -> None:
    stored = np.maximum(chest_kji(), -1024) + 1024
    stored.flat[:9] = -90 - np.arange(9)  # of 9216 voxels, one in a thousand
    assert is_offset(stored)
    stored.flat[9] = -100
    assert not is_offset(stored)
    assert not is_offset(chest_kji())


@pytest.mark.parametrize("slices", [9, 40, 41], ids=str)
@pytest.mark.parametrize("below", [[], [-90], [-90, -91], [-90, -91, -92]], ids=str)
def test_offset_is_told_from_every_slice_however_few_hold_values_below_it(slices: int, below: list[int]) -> None:
    """At most two values below are padding, wherever they lie; one slice more or less must not decide."""
    for k in range(slices):
        stored = np.full((slices, 6, 6), 500, np.int16)
        stored[k].flat[: len(below)] = below
        assert is_offset(stored) == (len(below) < 3)


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_mapping_without_lungs_is_refused_with_the_question(scale: float) -> None:
    values = (np.abs(tiny_hu()) % 250 * scale).astype(np.int16)
    with pytest.raises(InputError, match=r"^case1: no lungs found: is this a chest CT in HU\?.*Export"):
        to_hounsfield(ct_of(values), lungs_found=never)


def test_fractions_are_grey_unless_they_are_shares() -> None:
    assert is_grey(np.array([[[0.5, 3.0]]], np.float32))
    assert is_grey(np.array([[[0.0, 255.0]]], np.float32))
    assert not is_grey(np.array([[[0.0, 0.4, 1.0]]], np.float32))
    assert not is_grey(np.array([[[0.0, 255.5]]], np.float32))
    assert grey_to_hu(np.array([[[101.6]]])).tolist() == grey_to_hu(np.array([[[102]]])).tolist()
    assert not is_grey(np.array([[[0, 256]]], np.int16))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_offset_is_taken_off_values_of_any_type(dtype: type) -> None:
    assert offset_to_hu(np.array([[[0, 100]]], dtype)).tolist() == [[[-1024, -924]]]


def test_input_is_not_modified() -> None:
    stored = np.maximum(chest_kji(), -1024) + 1024
    copy = stored.copy()
    to_hounsfield(ct_of(stored), lungs_found=lungs_found)
    np.testing.assert_array_equal(stored, copy)
    assert offset_to_hu(stored) is not stored
