"""The scanner of the phantom: table and blanket where they belong, sharpness, noise and streaks as asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from CovidSegLib.phantoms.scanner import Scanner, scanned, surroundings

#: Neither noise nor sharpening nor anything around the patient.
PLAIN = Scanner(
    noise_hu=0.0,
    blur_mm=0.8,
    sharpening=0.0,
    table_gap_mm=10.0,
    table_curve=0.0,
    table_hu=-100.0,
    mattress=False,
    blanket=False,
    circle=False,
)
BACK_MM = 100.0


def around(scanner: Scanner, *, x_mm: list[float], y_mm: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the surroundings (j, i) with hard edges."""
    rng = np.random.default_rng(seed)
    return surroundings(np.array(x_mm), y_mm, scanner=scanner, rng=rng, back_mm=BACK_MM, edge_mm=1e-3)


def image_of(
    hu_kji: np.ndarray,
    scanner: Scanner,
    *,
    spacing_ijk_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    shoulder: float | list[float] = 0.0,
) -> np.ndarray:
    """Return what the scanner makes of true densities."""
    shoulder_k = np.broadcast_to(np.asarray(shoulder, dtype=np.float32), hu_kji.shape[:1])
    return scanned(
        hu_kji.astype(np.float32),
        spacing_ijk_mm=spacing_ijk_mm,
        scanner=scanner,
        rng=np.random.default_rng(0),
        shoulder_k=shoulder_k,
    )


def layers(column: np.ndarray, y_mm: np.ndarray) -> list[tuple[float, float, float]]:
    """Return from where to where (y, in mm) what but air lies below each other, and its HU."""
    starts = [0, *(np.flatnonzero(np.diff(column)) + 1), len(column)]
    edges = [(y_mm[a] - 0.05, y_mm[b - 1] + 0.05, column[a]) for a, b in pairwise(starts)]
    return [(round(float(top), 2), round(float(end), 2), float(hu)) for top, end, hu in edges if hu != -1000.0]


def test_scanners_are_drawn_from_what_is_met_and_a_third_has_a_sharp_kernel() -> None:
    drawn = [Scanner.random(np.random.default_rng(seed)) for seed in range(1000)]
    sharp = [scanner for scanner in drawn if scanner.sharpening > 0]
    soft = [scanner for scanner in drawn if scanner.sharpening == 0]
    assert len(sharp) / len(drawn) == pytest.approx(0.35, abs=0.04)
    for scanners, name, lowest, highest in (
        (sharp, "noise_hu", 18, 40),
        (soft, "noise_hu", 8, 22),
        (sharp, "blur_mm", 0.4, 0.6),
        (soft, "blur_mm", 0.6, 1.0),
        (sharp, "sharpening", 0.5, 1.1),
        (drawn, "table_gap_mm", 3, 14),
        ([scanner for scanner in drawn if scanner.table_curve], "table_curve", 0.0006, 0.0017),
        (drawn, "table_hu", -300, 60),
    ):
        values = [getattr(scanner, name) for scanner in scanners]
        margin = 0.02 * (highest - lowest)
        assert lowest <= min(values) < lowest + margin and highest - margin < max(values) <= highest, name
    for name, share in (("table_curve", 0.5), ("mattress", 0.6), ("blanket", 0.6), ("circle", 0.4)):
        assert np.mean([bool(getattr(scanner, name)) for scanner in drawn]) == pytest.approx(share, abs=0.04), name


def test_flat_table_is_a_shell_around_foam_below_a_mattress() -> None:
    y_mm = np.arange(0.05, 200.0, 0.1)
    table = [(120.0, 122.5, -100.0), (122.5, 151.5, -930.0), (151.5, 154.0, -100.0)]
    found = around(PLAIN, x_mm=[-216.0, -214.0, 0.0, 214.0, 216.0], y_mm=y_mm)
    assert found.dtype == np.float32
    assert layers(found[:, 2], y_mm) == table
    assert layers(found[:, 1], y_mm) == layers(found[:, 3], y_mm) == [(120.0, 154.0, -100.0)]  # the shell's side
    assert layers(found[:, 0], y_mm) == layers(found[:, 4], y_mm) == []
    padded = around(replace(PLAIN, mattress=True), x_mm=[0.0, 214.0, 216.0], y_mm=y_mm)
    assert layers(padded[:, 0], y_mm) == [(110.0, 120.0, -900.0), *table]
    assert layers(padded[:, 1], y_mm)[0] == (110.0, 120.0, -900.0) and layers(padded[:, 2], y_mm) == []


def test_curved_table_rises_and_thins_towards_its_sides() -> None:
    y_mm = np.arange(0.05, 200.0, 0.1)
    found = around(replace(PLAIN, table_curve=0.001), x_mm=[-100.0, 0.0, 100.0], y_mm=y_mm)
    # At 100 mm from the middle, 0.001 / mm * (100 mm) ** 2 = 10 mm higher, and half of that thinner than 34 mm.
    side = [(110.0, 112.5, -100.0), (112.5, 136.5, -930.0), (136.5, 139.0, -100.0)]
    assert layers(found[:, 0], y_mm) == layers(found[:, 2], y_mm) == side
    assert layers(found[:, 1], y_mm)[0][0] == 120.0


def test_edges_of_the_table_are_as_soft_as_asked() -> None:
    y_mm = np.array([115.0, 117.0, 120.0, 122.0])
    found = surroundings(
        np.zeros(1),
        y_mm,
        scanner=replace(PLAIN, table_hu=0.0),
        rng=np.random.default_rng(0),
        back_mm=BACK_MM,
        edge_mm=4.0,
    )
    # The edge at 120 mm is 4 mm wide; from 120.5 mm on foam of -930 HU begins, half of it reached at 122.5 mm.
    assert found[:, 0].tolist() == pytest.approx([-1000.0, -1000.0, -500.0, -930.0 * (0.5 - 0.5 / 4)])


@pytest.mark.parametrize("seed", range(3))
def test_blanket_is_a_thin_cloth_before_the_patient(seed: int) -> None:
    x_mm, y_mm = np.arange(-300.0, 300.0, 4.0), np.arange(-200.0, 0.0, 0.1)
    bare = around(PLAIN, x_mm=list(x_mm), y_mm=y_mm, seed=seed)
    found = around(replace(PLAIN, blanket=True), x_mm=list(x_mm), y_mm=y_mm, seed=seed)
    cloth = found != bare
    columns = np.flatnonzero(cloth.any(axis=0))
    full = found[cloth & (found > -1000)].max()
    assert -850 <= full <= -600
    # It hangs, so it is lowest beside the body (towards the back), and waves by 14 mm.
    height = np.array([y_mm[cloth[:, i]].mean() for i in columns]) - 0.0018 * x_mm[columns] ** 2
    assert height.min() >= -125.0 - 14.1 and height.max() <= -100.0 + 14.1
    assert 1.0 < np.ptp(height) <= 28.1
    width_mm = x_mm[columns[-1]] - x_mm[columns[0]]
    assert 112.0 <= width_mm <= 340.0 and abs(x_mm[columns].mean()) <= 81.0
    assert len(columns) == columns[-1] - columns[0] + 1  # in one piece
    thickness_mm = 0.1 * cloth[:, columns].sum(axis=0)
    assert thickness_mm.min() >= 0.9 and thickness_mm.max() <= 2.5


def test_even_density_stays_and_is_rounded_and_kept_within_what_a_ct_can_hold() -> None:
    for value, expected in ((40.4, 40), (40.6, 41), (-1200.0, -1024), (5000.0, 3071)):
        found = image_of(np.full((4, 8, 8), value), PLAIN)
        assert found.dtype == np.int16 and (found == expected).all()


def test_blur_is_that_of_the_smaller_pixel_in_the_slice_and_hardly_across_slices() -> None:
    def spread(axis: int) -> np.ndarray:
        hu = np.zeros((9, 31, 31))
        hu[(slice(None),) * axis + (hu.shape[axis] // 2,)] = 3000.0
        profile = image_of(hu, replace(PLAIN, blur_mm=1.2), spacing_ijk_mm=(1.0, 0.8, 0.5))
        return np.moveaxis(profile, axis, 0)[:, 4, 4].astype(float)

    for axis in (1, 2):
        profile = spread(axis)
        variance = (profile * (np.arange(31) - 15.0) ** 2).sum() / profile.sum()
        assert variance == pytest.approx(1.5**2 + 0.3**2, rel=0.04)
    beside = np.exp(-1 / (2 * 0.35**2))
    assert spread(0).tolist()[3:6] == pytest.approx(
        [3000 * beside / (1 + 2 * beside), 3000 / (1 + 2 * beside), 3000 * beside / (1 + 2 * beside)], abs=1.0
    )


@pytest.mark.parametrize("sharpening", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("axis", "pixel_mm"), [(1, 0.5), (2, 1.0)])
def test_sharp_kernel_adds_back_its_share_of_what_is_finer_than_a_millimetre_or_so(
    axis: int, pixel_mm: float, sharpening: float
) -> None:
    wave_pixels = 8
    wave = 1000.0 * np.cos(2 * np.pi * np.arange(64) / wave_pixels)
    hu = np.broadcast_to(np.moveaxis(wave[:, None, None], 0, axis), [5 if a == 0 else 64 for a in range(3)])
    found = image_of(hu, replace(PLAIN, blur_mm=0.3, sharpening=sharpening), spacing_ijk_mm=(1.0, 0.5, 2.0))
    middle = np.moveaxis(found, axis, 0)[24:40, 2, 32]

    def left_over(sigma_pixels: float) -> float:
        """What a Gaussian leaves of the wave."""
        return float(np.exp(-2 * (np.pi * sigma_pixels / wave_pixels) ** 2))

    expected = left_over(np.hypot(0.3 / 0.5, 0.3)) * (1 + sharpening * (1 - left_over(1.3 / pixel_mm)))
    assert middle.max() / 1000.0 == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize(("sharpening", "correlation"), [(0.0, 0.69), (0.8, 0.17)])
def test_noise_is_as_strong_as_asked_and_finer_in_a_sharp_kernel(sharpening: float, correlation: float) -> None:
    found = image_of(np.full((20, 64, 64), 40.0), replace(PLAIN, noise_hu=25.0, sharpening=sharpening)).astype(float)
    assert found.std() == pytest.approx(25.0, rel=0.05) and found.mean() == pytest.approx(40.0, abs=1.0)
    for first, second in (
        (found[:, :, 1:], found[:, :, :-1]),
        (found[:, 1:], found[:, :-1]),
    ):
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(correlation, abs=0.03)


def test_shoulders_streak_from_side_to_side_where_they_are() -> None:
    hu = np.full((8, 64, 128), 40.0)
    noisy = replace(PLAIN, noise_hu=20.0)
    still = image_of(hu, noisy, spacing_ijk_mm=(2.0, 2.0, 2.0)).astype(float)
    streaky = image_of(hu, noisy, spacing_ijk_mm=(2.0, 2.0, 2.0), shoulder=[0, 0, 0, 0, 0, 0, 0.5, 1.0])
    streaks = streaky - still
    assert not streaks[:6].any()
    whole = image_of(hu, noisy, spacing_ijk_mm=(2.0, 2.0, 2.0), shoulder=1.0) - still
    assert whole.std() == pytest.approx(1.3 * 20.0, rel=0.03)
    assert streaks[6].std() == pytest.approx(0.5 * whole[6].std(), rel=0.03)
    assert streaks[7] == pytest.approx(whole[7])
    assert np.corrcoef(whole[:, :, 7:].ravel(), whole[:, :, :-7].ravel())[0, 1] == pytest.approx(0.75, abs=0.06)
    assert np.corrcoef(whole[:, 2:].ravel(), whole[:, :-2].ravel())[0, 1] == pytest.approx(0.0, abs=0.1)


def test_shoulders_that_are_hardly_in_view_do_not_streak() -> None:
    hu = np.full((4, 32, 32), 40.0)
    noisy = replace(PLAIN, noise_hu=20.0)
    assert np.array_equal(image_of(hu, noisy, shoulder=0.05), image_of(hu, noisy))
    assert not np.array_equal(image_of(hu, noisy, shoulder=0.06), image_of(hu, noisy))


def test_outside_the_circle_is_padding() -> None:
    found = image_of(np.full((2, 10, 10), 40.0), replace(PLAIN, circle=True))
    # A circle of radius 5 leaves out five pixels of each corner: (4.5, 4.5), (4.5, 3.5), (4.5, 2.5) and mirrored.
    corner = np.zeros((5, 5), dtype=bool)
    corner[0, :3] = corner[:3, 0] = True
    expected = np.block([[corner, corner[:, ::-1]], [corner[::-1], corner[::-1, ::-1]]])
    assert np.array_equal(found == -1024, np.broadcast_to(expected, found.shape))
    assert (found[:, ~expected] == 40).all()
    wide = image_of(np.full((1, 4, 10), 40.0), replace(PLAIN, circle=True))
    assert (wide == 40).all()  # the circle is that of the longer side
