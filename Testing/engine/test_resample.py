"""Separable resampling: exact positions, constants and means kept, noise averaged when coarsened."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.resample import AxisGrid, axis_weights, covering_axis, resample_kji
from hypothesis import example, given, settings
from hypothesis import strategies as st

axes = st.builds(
    AxisGrid,
    first_mm=st.floats(-20, 20),
    step_mm=st.floats(0.3, 9),
    count=st.integers(1, 25),
)


@given(source=axes, target=axes)
@settings(max_examples=60)
def test_rows_sum_to_one_and_no_weight_is_negative(source: AxisGrid, target: AxisGrid) -> None:
    weights = axis_weights(source, target)
    assert weights.shape == (target.count, source.count) and weights.dtype == np.float32
    assert np.allclose(weights.sum(axis=1), 1.0, atol=1e-5)
    assert weights.min() >= 0.0


@given(axis=axes)
@settings(max_examples=30)
def test_equal_grids_give_the_identity(axis: AxisGrid) -> None:
    assert np.allclose(axis_weights(axis, axis), np.eye(axis.count), atol=1e-5)


@given(source=axes, step_mm=st.floats(0.3, 9))
@settings(max_examples=60)
def test_covering_axis_has_the_same_middle_and_extent(source: AxisGrid, step_mm: float) -> None:
    target = covering_axis(source, step_mm)
    assert target.centers_mm.mean() == pytest.approx(source.centers_mm.mean(), abs=1e-6)
    assert target.step_mm == step_mm
    extent_mm = source.count * source.step_mm
    assert target.count == 1 or abs(target.count * step_mm - extent_mm) <= step_mm / 2 + 1e-6


@pytest.mark.parametrize("step_mm", [0.5, 1.58, 2.0, 5.3])
def test_linear_ramp_is_exact_away_from_the_border(step_mm: float) -> None:
    source = AxisGrid(-7.0, 2.0, 40)
    target = covering_axis(source, step_mm)
    ramp = 3.0 * source.centers_mm - 100.0
    inner = slice(int(np.ceil(6.0 / step_mm)), -int(np.ceil(6.0 / step_mm)))
    found = axis_weights(source, target) @ ramp.astype(np.float32)
    assert found[inner] == pytest.approx((3.0 * target.centers_mm - 100.0)[inner], abs=0.35 if step_mm > 5 else 1e-3)


def test_beyond_the_border_the_border_value_continues() -> None:
    weights = axis_weights(AxisGrid(0.0, 1.0, 3), AxisGrid(-10.0, 1.0, 3))
    assert np.allclose(weights @ np.array([5.0, 1.0, 1.0], np.float32), 5.0)


@pytest.mark.parametrize("step_mm", [0.7, 1.0, 3.3])
def test_center_of_mass_stays_in_place(step_mm: float) -> None:
    source = AxisGrid(0.0, 1.3, 60)
    blob = np.exp(-(((source.centers_mm - 33.1) / 6.0) ** 2)).astype(np.float32)
    target = covering_axis(source, step_mm)
    found = axis_weights(source, target) @ blob
    assert np.average(target.centers_mm, weights=found) == pytest.approx(33.1, abs=0.05)


def test_coarsening_averages_noise_and_refining_does_not() -> None:
    noise = np.random.default_rng(0).normal(0, 100, 4000).astype(np.float32)
    source = AxisGrid(0.0, 1.0, 4000)
    coarse = axis_weights(source, covering_axis(source, 4.0)) @ noise
    # A triangle over n voxels on either side leaves about sqrt(2 / (3 n)) of the noise.
    assert coarse.std() == pytest.approx(100 * np.sqrt(2 / 12), rel=0.1)
    same = axis_weights(source, AxisGrid(0.0, 1.0, 4000)) @ noise
    assert np.array_equal(same, noise)


@pytest.mark.parametrize("step_mm", [0.4, 1.0, 3.0])
def test_wider_kernel_softens_by_its_width_whatever_the_source(step_mm: float) -> None:
    source, target = AxisGrid(0.0, step_mm, round(120 / step_mm)), AxisGrid(20.0, 2.0, 41)
    edge = (source.centers_mm > 60.0).astype(np.float32)
    found = axis_weights(source, target, half_width=2.0) @ edge
    # The variance of a triangle is a sixth of its half-width squared; a coarse source adds that of its own steps.
    slope = np.diff(found)
    middles_mm = target.centers_mm[:-1] + 1.0
    variance = np.average((middles_mm - np.average(middles_mm, weights=slope)) ** 2, weights=slope)
    assert variance == pytest.approx(4.0**2 / 6, rel=0.35)


def test_kernel_is_never_narrower_than_the_sources_step() -> None:
    source, target = AxisGrid(0.0, 8.0, 10), AxisGrid(0.0, 2.7, 30)
    assert np.array_equal(axis_weights(source, target, half_width=1.6), axis_weights(source, target))


@given(source=axes, target=axes)
@example(source=AxisGrid(0.0, 2.0, 10), target=AxisGrid(0.5, 2.0, 10))
@settings(max_examples=60)
def test_cubic_upsampling_keeps_what_it_is_given(source: AxisGrid, target: AxisGrid) -> None:
    weights = axis_weights(source, target, upsampling="cubic")
    assert np.allclose(weights.sum(axis=1), 1.0, atol=1e-5)
    assert np.allclose(axis_weights(source, source, upsampling="cubic"), np.eye(source.count), atol=1e-5)
    if source.step_mm <= target.step_mm:
        assert np.array_equal(weights, axis_weights(source, target))


@pytest.mark.parametrize("width", [1.0, 1.6])
def test_cubic_upsampling_is_exact_for_a_parabola_where_a_line_is_not(width: float) -> None:
    source = AxisGrid(-3.0, 8.0, 12)
    target = AxisGrid(13.0, 2.7, 20)  # two of the source's steps away from its ends
    parabola = (source.centers_mm - 40.0) ** 2
    expected = (target.centers_mm - 40.0) ** 2
    found = axis_weights(source, target, half_width=width, upsampling="cubic").astype(np.float64) @ parabola
    assert found == pytest.approx(expected, abs=1e-2)
    # A line between neighbours lies above it by a quarter of the step squared.
    by_line = axis_weights(source, target, half_width=width) @ parabola
    assert (by_line - expected).max() == pytest.approx(16.0, abs=0.5)


def test_structure_between_thick_slices_is_kept_better_by_cubic_upsampling() -> None:
    source, target = AxisGrid(0.0, 8.0, 20), AxisGrid(20.0, 2.7, 40)
    blob = np.exp(-(((source.centers_mm - 76.0) / 12.0) ** 2)).astype(np.float32)
    truth = np.exp(-(((target.centers_mm - 76.0) / 12.0) ** 2))
    errors = [
        np.abs(axis_weights(source, target, upsampling=upsampling) @ blob - truth).max()  # type: ignore[arg-type]
        for upsampling in ("linear", "cubic")
    ]
    assert errors[1] < 0.5 * errors[0]


def test_part_is_the_same_axis_cut() -> None:
    axis = AxisGrid(3.0, 0.7, 20)
    part = axis.part(4, 11)
    assert part.count == 7
    assert part.centers_mm == pytest.approx(axis.centers_mm[4:11])


def grids() -> tuple[tuple[AxisGrid, ...], tuple[AxisGrid, ...]]:
    source = (AxisGrid(0.0, 3.0, 9), AxisGrid(0.0, 1.1, 17), AxisGrid(0.0, 0.9, 14))
    target = (AxisGrid(-1.0, 2.0, 11), AxisGrid(2.0, 2.5, 6), AxisGrid(1.0, 0.5, 19))
    return source, target


def dense(volume: np.ndarray, source: tuple[AxisGrid, ...], target: tuple[AxisGrid, ...]) -> np.ndarray:
    w = [axis_weights(s, t).astype(np.float64) for s, t in zip(source, target, strict=True)]
    return np.einsum("ak,bj,ci,kji->abc", *w, volume.astype(np.float64))


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.uint8, bool])
def test_slice_by_slice_equals_the_product_of_dense_matrices(kind: type) -> None:
    source, target = grids()
    volume = (np.random.default_rng(1).uniform(0, 2 if kind is bool else 250, (9, 17, 14))).astype(kind)
    before = volume.copy()
    found = resample_kji(volume, source=source, target=target)
    assert found.shape == (11, 6, 19) and found.dtype == np.float32
    assert found == pytest.approx(dense(volume, source, target), abs=1e-3)
    assert np.array_equal(volume, before)


def test_flipped_and_transposed_views_need_no_copy() -> None:
    source, target = grids()
    base = np.random.default_rng(2).integers(-1000, 500, (14, 9, 17)).astype(np.int16)
    view = base.transpose(1, 2, 0)[::-1, :, ::-1]
    assert not view.flags.c_contiguous
    assert resample_kji(view, source=source, target=target) == pytest.approx(dense(view, source, target), abs=0.01)


def test_converted_slices_are_resampled_as_if_converted_before() -> None:
    source, target = grids()
    volume = np.random.default_rng(3).integers(-1000, 500, (9, 17, 14)).astype(np.int16)
    found = resample_kji(volume, source=source, target=target, convert=lambda plane: plane < -400)
    assert found == pytest.approx(dense(volume < -400, source, target), abs=1e-5)


def test_constant_volume_stays_constant() -> None:
    source, target = grids()
    assert resample_kji(np.full((9, 17, 14), -777, np.int16), source=source, target=target) == pytest.approx(-777.0)
