"""Gas below the lungs is told from lung by its width, its wall and its place."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.anatomy.abdominal_gas import abdominal_gas, outvoted_air
from scipy import ndimage

SPACING_KJI_MM = (2.7, 1.6, 1.6)
SHAPE_KJI = (60, 70, 70)


def ball(center_kji: tuple[float, float, float], *, radius_mm: float) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(n) for n in SHAPE_KJI), indexing="ij")
    offsets = ((g - c) * s for g, c, s in zip(grid, center_kji, SPACING_KJI_MM, strict=True))
    return sum(o**2 for o in offsets) < radius_mm**2


def chest(*, noise_hu: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return HU of a lung of -850 HU crossed by vessels over an abdomen of 40 HU, and the lung's mask."""
    lung = np.zeros(SHAPE_KJI, bool)
    lung[15:55, 8:62, 8:62] = True
    hu = np.where(lung, -850.0, 40.0)
    hu[15:55, 12:62:7, 12:62:7] = 0.0
    return hu + np.random.default_rng(0).normal(0.0, noise_hu, SHAPE_KJI), lung


def found(hu: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    return abdominal_gas(hu, lungs_kji=lungs, inside_kji=np.ones(SHAPE_KJI, bool), spacing_kji_mm=SPACING_KJI_MM)


@pytest.mark.parametrize("noise_hu", [0.0, 60.0])
def test_pocket_below_the_diaphragm_is_found_with_two_voxels_of_its_wall(noise_hu: float) -> None:
    hu, lungs = chest(noise_hu=noise_hu)
    pocket = ball((7.0, 35.0, 35.0), radius_mm=15.0)
    hu[pocket] -= hu[pocket].mean() + 990.0
    gas = found(hu, lungs | pocket)
    with_wall = ndimage.binary_dilation(pocket, ndimage.generate_binary_structure(3, 2), iterations=2)
    assert (gas & with_wall).sum() > 0.95 * with_wall.sum()
    assert not (gas & ~with_wall).any() and not (gas & lungs).any()


def test_gas_over_fluid_is_found_into_its_corners() -> None:
    hu, lungs = chest()
    k, j, _i = np.ogrid[tuple(slice(n) for n in SHAPE_KJI)]
    pocket = ball((0.0, 64.0, 35.0), radius_mm=80.0) & (k < 12) & (j < 34)  # tapers towards the fluid, in 53 degrees
    hu[pocket] = -990.0
    soft = ndimage.gaussian_filter(hu, 0.6)
    gas = found(soft, lungs | pocket)
    assert not (pocket & ~gas).any()
    assert not (gas & lungs & (soft < -800.0)).any()


def test_lung_that_touches_the_wall_is_not_taken_with_it() -> None:
    hu, lungs = chest()
    pocket = ball((8.0, 35.0, 35.0), radius_mm=15.0)  # one slice below the lung
    hu[pocket] = -990.0
    gas = found(hu, lungs | pocket)
    aerated = lungs & (hu < -800.0)
    assert ndimage.binary_dilation(gas, iterations=1)[aerated].any()
    assert not (gas & aerated).any()


def test_emphysema_with_vessels_is_no_gas() -> None:
    hu, lungs = chest()
    hu[lungs & (hu < -800.0)] = -965.0
    assert not found(hu, lungs).any()


def test_bulla_at_the_apex_is_no_gas() -> None:
    hu, lungs = chest()
    hu[ball((48.0, 20.0, 20.0), radius_mm=14.0)] = -990.0
    assert not found(hu, lungs).any()


def test_specks_and_thin_gas_are_left_to_the_size_of_pieces() -> None:
    hu, lungs = chest()
    hu[ball((7.0, 35.0, 35.0), radius_mm=5.0)] = -990.0
    assert not found(hu, lungs).any()


@pytest.mark.parametrize(("gas_hu", "is_found"), [(-945.0, True), (-935.0, False)])
def test_pocket_is_gas_below_940_hu_under_zero(gas_hu: float, *, is_found: bool) -> None:
    hu, lungs = chest()
    hu[ball((0.0, 35.0, 35.0), radius_mm=35.0) & ~lungs] = gas_hu
    assert found(hu, lungs).any() == is_found


@pytest.mark.parametrize(("radius_mm", "is_found"), [(13.5, False), (14.0, True)])
def test_small_pocket_is_left_to_the_size_of_pieces(radius_mm: float, *, is_found: bool) -> None:
    hu, lungs = chest()
    hu[ball((7.0, 35.0, 35.0), radius_mm=radius_mm)] = -990.0  # the core that stays dark holds 2 ml or less
    assert found(hu, lungs).any() == is_found


@pytest.mark.parametrize(("rows", "is_found"), [(10, False), (14, True)])
def test_flat_pocket_holds_no_ball_of_6_mm(rows: int, *, is_found: bool) -> None:
    hu, lungs = chest()
    hu[1:14, 20 : 20 + rows, 10:60] = -990.0  # 16 or 22 mm, of which the smoothing leaves 4 or 10 below -940 HU
    assert found(hu, lungs).any() == is_found


@pytest.mark.parametrize(("center_k", "is_found"), [(28.0, True), (33.0, False)])
def test_pocket_lies_in_the_lower_two_fifths_of_the_lungs(center_k: float, *, is_found: bool) -> None:
    hu, lungs = chest()  # slices 15 to 54: up to 30.6
    hu[ball((center_k, 35.0, 35.0), radius_mm=21.0)] = 40.0
    hu[ball((center_k, 35.0, 35.0), radius_mm=15.0)] = -990.0
    assert found(hu, lungs).any() == is_found


def test_emphysema_on_the_diaphragm_is_no_gas() -> None:
    hu, lungs = chest()
    hu[15:23, 10:60, 10:60] = -965.0  # even and wide, but lung, not a wall, lies over and beside it
    assert not found(hu, lungs).any()


def test_gas_outside_the_patient_is_not_looked_for() -> None:
    hu, lungs = chest()
    pocket = ball((7.0, 35.0, 35.0), radius_mm=15.0)
    hu[pocket] = -990.0
    gas = abdominal_gas(hu, lungs_kji=lungs, inside_kji=~pocket, spacing_kji_mm=SPACING_KJI_MM)
    assert not gas.any()


def test_without_lungs_nothing_is_searched() -> None:
    hu, lungs = chest()
    hu[ball((7.0, 35.0, 35.0), radius_mm=15.0)] = -990.0
    assert not found(hu, np.zeros_like(lungs)).any()


def outvoted(hu: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    return outvoted_air(hu, lungs_kji=lungs, inside_kji=np.ones(SHAPE_KJI, bool), spacing_kji_mm=SPACING_KJI_MM)


def loop_of_bowel(*, center_k: float = 7.0, radius_mm: float = 6.0) -> np.ndarray:
    """Return a pocket too small for `abdominal_gas`, of 0.9 ml by default."""
    return ball((center_k, 35.0, 35.0), radius_mm=radius_mm)


def called_lung(piece: np.ndarray, *, share: float) -> np.ndarray:
    """Return the first voxels of a piece, so many that they are this share of it."""
    voxels = np.argwhere(piece)
    called = np.zeros_like(piece)
    called[tuple(voxels[: round(share * len(voxels))].T)] = True
    return called


def test_narrow_loop_that_is_mostly_no_lung_is_none_and_neither_is_its_wall() -> None:
    hu, lungs = chest()
    loop = loop_of_bowel()
    hu[loop] = -950.0
    assert not found(hu, lungs | called_lung(loop, share=0.4)).any()
    gas = outvoted(hu, lungs | called_lung(loop, share=0.4))
    with_wall = ndimage.binary_dilation(loop, ndimage.generate_binary_structure(3, 2), iterations=2)
    np.testing.assert_array_equal(gas, with_wall)


@pytest.mark.parametrize(("share", "is_out"), [(0.0, False), (0.49, True), (0.51, False), (1.0, False)])
def test_majority_of_the_network_decides_on_a_piece_of_air(share: float, *, is_out: bool) -> None:
    hu, lungs = chest()
    loop = loop_of_bowel()
    hu[loop] = -950.0
    assert outvoted(hu, lungs | called_lung(loop, share=share)).any() == is_out  # nothing to take away at 0


def test_air_that_hangs_together_with_the_lungs_is_not_voted_on() -> None:
    hu, lungs = chest()
    loop = loop_of_bowel()
    hu[loop] = -950.0
    hu[7:16, 35, 35] = -700.0
    assert not outvoted(hu, lungs | called_lung(loop, share=0.4)).any()


def test_bronchus_in_consolidation_stays_what_the_network_calls_it() -> None:
    hu, lungs = chest()
    consolidated = ball((22.0, 35.0, 35.0), radius_mm=18.0)
    bronchus = ball((22.0, 35.0, 35.0), radius_mm=6.0)
    hu[consolidated] = 20.0
    hu[bronchus] = -950.0
    assert not outvoted(hu, lungs & ~bronchus | called_lung(bronchus, share=0.3)).any()


@pytest.mark.parametrize(("radius_mm", "is_out"), [(3.8, False), (4.6, True)])
def test_speck_of_air_is_left_to_the_size_of_pieces(radius_mm: float, *, is_out: bool) -> None:
    hu, lungs = chest()
    loop = loop_of_bowel(radius_mm=radius_mm)  # 0.23 and 0.41 ml
    hu[loop] = -950.0
    assert outvoted(hu, lungs | called_lung(loop, share=0.4)).any() == is_out


@pytest.mark.parametrize(("slices", "is_out"), [(9, True), (10, False)])
def test_air_as_large_as_a_missed_lung_stays(slices: int, *, is_out: bool) -> None:
    hu, lungs = chest()
    air = np.zeros(SHAPE_KJI, bool)
    air[2 : 2 + slices, 2:-2, 2:-2] = True  # 271 and 301 ml
    assert outvoted(np.where(air, -950.0, hu), lungs | called_lung(air, share=0.4)).any() == is_out


@pytest.mark.parametrize(("center_k", "is_out"), [(28.0, True), (33.0, False)])
def test_only_the_lower_two_fifths_are_voted_on(center_k: float, *, is_out: bool) -> None:
    hu, lungs = chest()  # slices 15 to 54: up to 30.6
    around, loop = (loop_of_bowel(center_k=center_k, radius_mm=radius_mm) for radius_mm in (21.0, 6.0))
    hu[around], hu[loop] = 40.0, -950.0
    assert outvoted(hu, (lungs & ~around) | called_lung(loop, share=0.4)).any() == is_out


def test_without_lungs_nothing_is_voted_on() -> None:
    hu, lungs = chest()
    assert not outvoted(hu, np.zeros_like(lungs)).any()
