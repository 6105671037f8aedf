"""The structural checks: their limits, and the compact array of HU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.readers.checks import (
    check_geometry,
    check_size,
    check_straight_axes,
    check_values,
    spacing_warnings,
)
from CovidSegLib.readers.pixels import HuBuilder
from CovidSegLib.volume import read_ct
from helpers_ct_files import tiny_geometry, tiny_hu
from hypothesis import example, given
from hypothesis import strategies as st


@pytest.mark.parametrize("size", [(8, 8, 8), (512, 512, 8), (8, 512, 512), (20, 20, 20, 1), (20, 20, 20, 1, 1)])
def test_eight_slices_are_enough_along_any_axis(size: tuple[int, ...]) -> None:
    assert check_size(size, label="ct") == size[:3]


@pytest.mark.parametrize("size", [(), (9,), (9, 9), (9, 9, 1), (9, 9, 7), (9, 9, 9, 2), (9, 9, 0), (-4, 9, 9)])
def test_other_sizes_are_refused_and_the_file_is_named(size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^ct: "):
        check_size(size, label="ct")


@pytest.mark.parametrize("spacing", [(0.1, 0.1, 0.1), (6.0, 6.0, 20.0), (0.7, 0.7, 8.0)])
def test_spacing_within_the_limits_is_accepted(spacing: tuple[float, float, float]) -> None:
    check_geometry(tiny_geometry(spacing_ijk_mm=spacing), label="ct")


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("ct.mha", "NDims = 3\nDimSize = 14 12 10\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"),
        ("ct.nrrd", "NRRD0004\ntype: short\ndimension: 3\nsizes: 14 12 10\nendian: little\nencoding: raw\n\n"),
        (
            "ct.nrrd",
            "NRRD0004\ntype: short\ndimension: 3\nsizes: 14 12 10\nspacings: 0.75 0.5 NaN\nendian: little\n"
            "encoding: raw\n\n",
        ),
    ],
)
def test_file_that_states_no_spacing_gives_a_warning(tmp_path: Path, name: str, header: str) -> None:
    path = tmp_path / name
    path.write_bytes(header.encode() + tiny_hu().tobytes())
    ct = read_ct(path)
    assert ct.geometry.spacing_ijk_mm[2] == 1.0  # as in ITK and Slicer
    assert any("states no voxel spacing" in warning for warning in ct.warnings)


@pytest.mark.parametrize(
    "spacing", [(0.0, 1, 1), (0.09, 1, 1), (6.1, 1, 1), (1, 1, 20.1), (1, 1, 0.05), (1, -1, 1), (1, 1, np.nan)]
)
def test_spacing_beyond_the_limits_is_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match=r"^ct: .*spacing.*(Correct|Export)"):
        check_geometry(tiny_geometry(spacing_ijk_mm=spacing), label="ct")


def test_slice_limit_follows_the_head_foot_axis_if_axes_are_swapped() -> None:
    slices_along_i = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    check_geometry(tiny_geometry(spacing_ijk_mm=(15.0, 1.0, 1.0), direction_lps=slices_along_i), label="ct")
    with pytest.raises(InputError, match=r"pixel spacing of 15 mm \(axis k\)"):
        check_geometry(tiny_geometry(spacing_ijk_mm=(1.0, 1.0, 15.0), direction_lps=slices_along_i), label="ct")


def test_slice_limit_holds_for_slices_stored_head_first() -> None:
    head_first = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    check_geometry(tiny_geometry(spacing_ijk_mm=(1.0, 1.0, 15.0), direction_lps=head_first), label="ct")
    with pytest.raises(InputError, match=r"pixel spacing of 15 mm \(axis i\)"):
        check_geometry(tiny_geometry(spacing_ijk_mm=(15.0, 1.0, 1.0), direction_lps=head_first), label="ct")


def test_image_longer_than_a_patient_is_refused() -> None:
    check_geometry(tiny_geometry(size_ijk=(14, 12, 250), spacing_ijk_mm=(1, 1, 10.0)), label="ct")  # 2.5 m
    with pytest.raises(InputError, match=r"2510 mm long along axis k, longer than a patient"):
        check_geometry(tiny_geometry(size_ijk=(14, 12, 251), spacing_ijk_mm=(1, 1, 10.0)), label="ct")


@given(share=st.floats(0, 0.3), axis=st.sampled_from([(0, 2), (1, 2), (0, 1)]))
@example(share=0.0099, axis=(0, 2))
@example(share=0.0101, axis=(0, 2))
def test_shear_is_refused_beyond_one_percent_of_the_step(share: float, axis: tuple[int, int]) -> None:
    if abs(share - 0.01) < 1e-6:
        return
    columns = np.diag([0.7, 0.5, 2.0])
    columns[axis[0], axis[1]] = share * columns[axis[1], axis[1]]
    if share < 0.01:
        check_straight_axes(columns, label="ct")
    else:
        with pytest.raises(InputError, match="are sheared"):
            check_straight_axes(columns, label="ct")


@pytest.mark.parametrize(("share", "is_refused"), [(0.009, False), (0.011, True)])
def test_shear_is_measured_along_the_grid_however_it_lies_in_the_patient(share: float, *, is_refused: bool) -> None:
    columns = np.diag([0.7, 0.5, 2.0])
    columns[0, 2] = share * columns[2, 2]
    turned = columns[[1, 2, 0]]
    if is_refused:
        with pytest.raises(InputError, match="axes i and k are sheared"):
            check_straight_axes(turned, label="ct")
    else:
        check_straight_axes(turned, label="ct")


@pytest.mark.parametrize("column", [(0.0, 0.0, 0.0), (0.0, np.nan, 1.0)])
def test_axis_without_a_direction_is_refused(column: tuple[float, float, float]) -> None:
    columns = np.eye(3)
    columns[:, 1] = column
    with (
        np.errstate(all="ignore"),
        pytest.raises(InputError, match="ct: the axes in the header are zero or not numbers"),
    ):
        check_straight_axes(columns, label="ct")


def test_axis_without_a_direction_is_told_from_a_wrong_spacing() -> None:
    """The head-foot axis, whose spacing may be larger, cannot be found then."""
    nan = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, np.nan, 0.0, 1.0)
    with pytest.raises(InputError, match="the axes in the header are zero or not numbers"):
        check_geometry(tiny_geometry(spacing_ijk_mm=(1.0, 1.0, 15.0), direction_lps=nan), label="ct")


def test_position_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="not a number"):
        check_geometry(replace(tiny_geometry(), origin_lps_mm=(0.0, np.inf, 0.0)), label="ct")


def test_constant_image_is_refused() -> None:
    with pytest.raises(InputError, match="ct: every voxel is -1024"):
        check_values(np.full((9, 9, 9), -1024, np.int16), label="ct")


@pytest.mark.parametrize("kind", [np.int16, np.float32])
@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 3], [0, 2, 255]])
def test_labelmap_is_recognised(kind: type, labels: list[int]) -> None:
    with pytest.raises(InputError, match="looks like a labelmap"):
        check_values(np.random.default_rng(0).choice(labels, (9, 9, 9)).astype(kind), label="ct")


def test_labelmap_of_a_hundred_organs_is_recognised_by_its_patches() -> None:
    blocks = np.arange(125).reshape(5, 5, 5)
    labelmap = np.kron(blocks, np.ones((12, 12, 12), int)).astype(np.int16)
    with pytest.raises(InputError, match="looks like a labelmap"):
        check_values(labelmap, label="ct")


def test_noisy_grey_and_ordinary_ct_are_no_labelmaps() -> None:
    grey_kji = (tiny_hu() % 256).astype(np.int16)
    check_values(grey_kji, label="ct")
    grey_kji[:] = 0  # a small patient in much air
    grey_kji[4, 3:9] = (tiny_hu()[4, 3:9] % 255) + 1
    check_values(grey_kji, label="ct")
    check_values(tiny_hu(), label="ct")
    check_values(np.where(tiny_hu() > 0, 40, -1000).astype(np.int16), label="ct")


@given(
    st.lists(st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]), min_size=1, max_size=4)
)
def test_whole_slices_of_any_type_become_int16(kinds: list[type]) -> None:
    builder = HuBuilder((len(kinds), 2, 3), label="ct")
    values_ji = np.array([[0, 1, 2], [100, 120, 7]])
    for k, kind in enumerate(kinds):
        builder.set_slice(k, values_ji.astype(kind))
    result = builder.result()
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, np.stack([values_ji] * len(kinds)))


def test_one_fractional_slice_turns_all_into_float32_without_loss() -> None:
    builder = HuBuilder((3, 1, 2), label="ct")
    builder.set_slice(2, np.array([[7, 8]], np.int32))
    builder.set_slice(0, np.array([[0.5, -0.25]]))
    builder.set_slice(1, np.array([[-40_000, 40_000]], np.int32))
    assert builder.result().dtype == np.float32
    np.testing.assert_array_equal(builder.result(), [[[0.5, -0.25]], [[-40_000, 40_000]], [[7, 8]]])


@pytest.mark.parametrize("value", [1.1e6, -1.1e6, 1e300])
def test_values_beyond_any_hu_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="no Hounsfield units"):
        HuBuilder((1, 1, 2), label="ct").set_slice(0, np.array([[value, 0.0]]))
    if abs(value) < 1e30:  # as a volume of Slicer's scene holds it
        with pytest.raises(InputError, match="no Hounsfield units"):
            check_values(np.array([[[value, 0.0]]], np.float32), label="ct")


def test_metal_and_padding_are_accepted_up_to_a_million() -> None:
    builder = HuBuilder((1, 1, 2), label="ct")
    builder.set_slice(0, np.array([[-1e6, 1e6]]))
    check_values(builder.result(), label="ct")


def test_slices_of_5_mm_give_a_warning_with_spacing_and_extent() -> None:
    assert spacing_warnings(tiny_geometry(spacing_ijk_mm=(0.7, 0.7, 4.99))) == ()
    (warning,) = spacing_warnings(tiny_geometry(spacing_ijk_mm=(0.7, 0.7, 5.0)))
    assert "5.0 mm apart" in warning
    (warning,) = spacing_warnings(tiny_geometry(size_ijk=(14, 12, 30), spacing_ijk_mm=(0.7, 0.7, 8.0)))
    assert "30 slices, 8.0 mm apart (240 mm in all)" in warning
    coronal, _across = spacing_warnings(tiny_geometry(size_ijk=(14, 30, 12), spacing_ijk_mm=(0.7, 8.0, 0.7)))
    assert "30 slices, 8.0 mm apart (240 mm in all)" in coronal


def test_voxels_long_across_the_body_give_a_warning_however_the_ct_is_stored() -> None:
    assert spacing_warnings(tiny_geometry(spacing_ijk_mm=(3.0, 3.0, 4.0))) == ()
    slices_along_i = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    assert spacing_warnings(tiny_geometry(spacing_ijk_mm=(4.0, 3.0, 3.0), direction_lps=slices_along_i)) == ()
    for axes in ({"spacing_ijk_mm": (4.0, 1.0, 1.0)}, {"spacing_ijk_mm": (1.0, 4.0, 1.0)}):
        (warning,) = spacing_warnings(tiny_geometry(**axes))
        assert "Voxels of 4.0 mm across the body" in warning
    (warning,) = spacing_warnings(tiny_geometry(spacing_ijk_mm=(1.0, 1.0, 3.1), direction_lps=slices_along_i))
    assert "Voxels of 3.1 mm across the body" in warning
