from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.labels import Label
from CovidSegLib.phantom import Phantom
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from helpers_training import SPACING_IJK_MM

from CovidSegTraining.label_files import labels_on_network_grid
from CovidSegTraining.product.label_codes import Code, possible_classes
from CovidSegTraining.product.partial_labels import airway_mask, whole_chest_codes

RECIPE = PreprocessingRecipe(spacing_ijk_mm=SPACING_IJK_MM)


@pytest.fixture(scope="module")
def chest(ill: Phantom) -> dict[str, np.ndarray]:
    """HU, codes, and the true labels and sides of a patient on the network's grid."""
    seen = preprocess(ill.ct.hu_kji, geometry=ill.ct.geometry, recipe=RECIPE, crop_to_chest=False)
    hu = seen.hu_kji
    codes = whole_chest_codes(hu, inside_kji=seen.inside_kji, spacing_kji_mm=SPACING_IJK_MM[::-1], diseased=True)
    return {
        "hu": hu,
        "codes": codes,
        "inside": seen.inside_kji,
        "labels": labels_on_network_grid(ill.labelmap_kji, network_input=seen, classes=4),
        "side": labels_on_network_grid(ill.lung_side_kji, network_input=seen, classes=3),
    }


def test_left_is_left_and_right_is_right(chest: dict[str, np.ndarray]) -> None:
    for codes, side in (
        ((Code.LEFT_LUNG, Code.LEFT_OR_INFECTION), Label.LEFT_LUNG),
        ((Code.RIGHT_LUNG, Code.RIGHT_OR_INFECTION), Label.RIGHT_LUNG),
    ):
        named = np.isin(chest["codes"], codes)
        assert named.sum() > 0.7 * (chest["side"] == side).sum()
        other = Label.RIGHT_LUNG if side == Label.LEFT_LUNG else Label.LEFT_LUNG
        assert (chest["side"][named] == other).mean() < 0.01
        assert (chest["side"][named] == side).mean() > 0.97


def test_airways_are_not_lung(chest: dict[str, np.ndarray]) -> None:
    airway = (chest["labels"] == Label.BACKGROUND) & (chest["hu"] < -850) & chest["inside"]
    assert airway.sum() > 100
    assert (chest["codes"][airway] == Code.BACKGROUND).mean() > 0.8


def test_stomach_gas_is_background(chest: dict[str, np.ndarray]) -> None:
    low = np.zeros_like(chest["inside"])
    low[: np.flatnonzero((chest["side"] > 0).any(axis=(1, 2)))[0] + 8] = True
    gas = low & (chest["labels"] == Label.BACKGROUND) & (chest["hu"] < -900) & chest["inside"]
    assert gas.sum() > 50
    assert (chest["codes"][gas] == Code.BACKGROUND).mean() > 0.95


def test_infection_is_never_called_healthy(chest: dict[str, np.ndarray]) -> None:
    infected = chest["codes"][chest["labels"] == Label.INFECTION]
    assert np.isin(infected, (Code.LEFT_LUNG, Code.RIGHT_LUNG)).mean() < 0.01


def test_dense_infection_is_left_unknown_not_named(chest: dict[str, np.ndarray]) -> None:
    dense = chest["codes"][(chest["labels"] == Label.INFECTION) & (chest["hu"] > -300)]
    assert np.isin(dense, (Code.LEFT_LUNG, Code.RIGHT_LUNG, Code.INFECTION)).sum() == 0
    assert (dense == Code.UNKNOWN).mean() > 0.5


def test_far_from_the_lungs_is_background(chest: dict[str, np.ndarray]) -> None:
    assert (chest["codes"][~chest["inside"]] == Code.BACKGROUND).mean() > 0.99


def test_chest_known_to_be_healthy_holds_no_infection_anywhere(chest: dict[str, np.ndarray]) -> None:
    healthy = whole_chest_codes(
        chest["hu"], inside_kji=chest["inside"], spacing_kji_mm=SPACING_IJK_MM[::-1], diseased=False
    )
    assert not possible_classes()[healthy, Label.INFECTION].any()
    # What stays open is whether it is lung: in the rim and between the vessels of the hilum.
    open_codes = healthy == Code.NOT_INFECTION
    assert 0.001 < open_codes.mean() < 0.2
    assert np.isin(chest["codes"][open_codes], (Code.UNKNOWN, Code.LEFT_OR_INFECTION, Code.RIGHT_OR_INFECTION)).all()


SPACING_KJI_MM = (4.0, 3.0, 3.0)


def block_chest() -> tuple[np.ndarray, np.ndarray]:
    """Return HU and the patient (k, j, i): tissue of 40 HU with a trachea and two lungs of -800 HU with notches.

    The right lung is at i 12 to 37, the left one at i 62 to 87, both at j 10 to 39 and k 8 to 31; from their outer
    side a notch of 54 mm is cut into the right one, and of 42 mm into the left one. The patient's middle is i = 49.5.
    """
    inside = np.zeros((40, 50, 100), dtype=bool)
    inside[:, 3:47, 5:95] = True
    hu = np.where(inside, 40.0, -1000.0)
    hu[8:32, 10:40, 12:38] = hu[8:32, 10:40, 62:88] = -800.0
    hu[8:32, 16:34, 12:30] = hu[8:32, 18:32, 70:88] = 40.0
    hu[22:37, 24:29, 51:57] = -980.0
    return hu, inside


def codes_of(hu: np.ndarray, inside: np.ndarray, *, diseased: bool = True) -> np.ndarray:
    """Return the codes of a chest of blocks."""
    return whole_chest_codes(hu, inside_kji=inside, spacing_kji_mm=SPACING_KJI_MM, diseased=diseased)


@pytest.fixture(scope="module")
def marked() -> tuple[np.ndarray, np.ndarray]:
    """The chest of blocks with marks of other densities, and its codes; no mark comes near another."""
    hu, inside = block_chest()
    hu[20:26, 10:14, 78:88] = -770.0
    hu[20:26, 34:38, 78:88] = -750.0
    hu[26:30, 10:14, 12:20] = -460.0
    hu[26:30, 36:40, 12:20] = -440.0
    hu[9:14, 11:16, 62:69] = -940.0
    hu[9:14, 33:38, 62:69] = -910.0
    hu[28, 11, 91] = 140.0
    hu[28, 14, 91] = 160.0
    return hu, codes_of(hu, inside)


@pytest.mark.parametrize(
    ("at_kji", "code"),
    [
        ((12, 12, 30), Code.RIGHT_LUNG),
        ((23, 12, 83), Code.LEFT_LUNG),  # -770 HU
        ((23, 36, 83), Code.LEFT_OR_INFECTION),  # -750 HU
        ((28, 12, 16), Code.RIGHT_OR_INFECTION),  # -460 HU
        ((28, 38, 16), Code.UNKNOWN),  # -440 HU
        ((11, 13, 64), Code.UNKNOWN),  # -940 HU, 43.5 mm from the middle: may be a bronchus
        ((11, 13, 66), Code.LEFT_LUNG),  # 49.5 mm
        ((11, 35, 64), Code.LEFT_LUNG),  # -910 HU
        ((28, 26, 56), Code.BACKGROUND),  # the trachea, 18 mm from a lung
        ((20, 0, 50), Code.BACKGROUND),  # air around the patient
    ],
)
def test_air_of_the_chest_is_named_by_density_and_place(
    marked: tuple[np.ndarray, np.ndarray], at_kji: tuple[int, int, int], code: Code
) -> None:
    assert Code(marked[1][at_kji]) == code


@pytest.mark.parametrize(
    ("at_kji", "code"),
    [
        # Beside the lungs, to their sides, in the lower half of their height: only the very border is open.
        ((18, 12, 88), Code.UNKNOWN),
        ((18, 12, 89), Code.BACKGROUND),
        ((7, 12, 33), Code.BACKGROUND),  # 4 mm below
        # In the upper half, from k = 19 on, all soft tissue within 20 mm, for it may be consolidated lung.
        ((19, 12, 93), Code.UNKNOWN),  # 18 mm
        ((28, 12, 56), Code.UNKNOWN),
        ((28, 12, 55), Code.BACKGROUND),  # 21 mm
        ((36, 12, 33), Code.UNKNOWN),  # 20 mm above
        ((37, 12, 33), Code.BACKGROUND),
        ((28, 14, 91), Code.BACKGROUND),  # 160 HU: bone
        ((28, 11, 91), Code.UNKNOWN),  # 140 HU
        # What is wrapped in lung is open at any height if it is narrower than 48 mm.
        ((14, 25, 76), Code.UNKNOWN),
        ((14, 24, 22), Code.BACKGROUND),
    ],
)
def test_dense_tissue_is_open_where_it_may_be_lung(
    marked: tuple[np.ndarray, np.ndarray], at_kji: tuple[int, int, int], code: Code
) -> None:
    assert Code(marked[1][at_kji]) == code


def test_healthy_chest_is_open_at_its_borders_only_and_its_lungs_are_healthy_at_any_density() -> None:
    hu, inside = block_chest()
    hu[20:26, 34:38, 78:88] = -500.0
    hu[9:14, 11:16, 62:69] = -940.0
    codes = codes_of(hu, inside, diseased=False)
    found = [Code(codes[at]) for at in ((23, 36, 83), (11, 13, 64), (28, 12, 88), (28, 12, 89), (28, 26, 56))]
    assert found == [Code.LEFT_LUNG, Code.NOT_INFECTION, Code.NOT_INFECTION, Code.BACKGROUND, Code.BACKGROUND]
    assert set(np.unique(codes)) == {Code.BACKGROUND, Code.LEFT_LUNG, Code.RIGHT_LUNG, Code.NOT_INFECTION}


@pytest.mark.parametrize("larger", ["left", "right"])
def test_bridge_between_the_lungs_is_cut_half_way_whichever_is_larger(larger: str) -> None:
    hu, inside = block_chest()
    hu[25:28, 12:15, 38:62] = -800.0
    if larger == "right":
        hu[8:32, 10:40, 12:38] = -800.0
    codes = codes_of(hu, inside)[26, 13]
    assert set(codes[[14, 36, 40, 46]]) <= {Code.RIGHT_LUNG, Code.RIGHT_OR_INFECTION}
    assert set(codes[[53, 59, 63, 85]]) <= {Code.LEFT_LUNG, Code.LEFT_OR_INFECTION}


@pytest.mark.parametrize(("slices", "told_apart"), [(5, False), (8, True)])
def test_lung_and_a_pocket_of_less_than_a_quarter_of_it_are_not_told_apart(slices: int, *, told_apart: bool) -> None:
    hu, inside = block_chest()
    hu[8:32, 10:40, 12:38] = -800.0
    hu[8:32, 10:40, 62:88] = 40.0
    hu[8 : 8 + slices, 10:40, 62:88] = -800.0
    if told_apart:
        assert Code(codes_of(hu, inside)[10, 25, 75]) == Code.LEFT_LUNG
        return
    with pytest.raises(InputError, match="cannot be told apart"):
        codes_of(hu, inside)


def _pixels(rows: int, columns: int, *, first_column: int = 45) -> np.ndarray:
    plane = np.zeros((60, 100), dtype=bool)
    plane[20 : 20 + rows, first_column : first_column + columns] = True
    return plane


def _all_but_one(plane: np.ndarray) -> np.ndarray:
    plane[tuple(np.argwhere(plane)[0])] = False
    return plane


@pytest.mark.parametrize(
    ("plane", "slices", "hu", "is_airway"),
    [
        (_pixels(10, 10), 6, -900.0, True),
        (_pixels(10, 10), 5, -900.0, False),  # 25 mm long
        (_pixels(10, 10), 6, -881.0, True),
        (_pixels(10, 10), 6, -880.0, False),
        (_pixels(2, 4), 6, -900.0, True),  # 32 mm2
        (_all_but_one(_pixels(2, 4)), 6, -900.0, False),  # 28 mm2
        (_pixels(15, 15), 6, -900.0, False),  # 900 mm2
        (_all_but_one(_pixels(15, 15)), 6, -900.0, True),
        # From column 66 on it is 32 mm and more from the middle: a tenth of it may lie there, and no more.
        (_pixels(5, 20, first_column=47), 6, -900.0, True),
        (_pixels(5, 20, first_column=48), 6, -900.0, False),
        (_pixels(5, 20, first_column=33), 6, -900.0, True),
        (_pixels(5, 20, first_column=32), 6, -900.0, False),
    ],
)
def test_airway_is_long_and_narrow_and_dark_and_near_the_middle(
    plane: np.ndarray, slices: int, hu: float, *, is_airway: bool
) -> None:
    air = np.zeros((10, *plane.shape), dtype=bool)
    air[2 : 2 + slices] = plane
    found = airway_mask(np.where(air, hu, 40.0), air=air, inside_kji=np.ones_like(air), spacing_kji_mm=(5.0, 2.0, 2.0))
    assert np.array_equal(found, air if is_airway else air & False)


def test_airway_takes_its_rim_along_but_not_its_wall() -> None:
    air = np.zeros((10, 60, 100), dtype=bool)
    air[2:8, 20:30, 45:55] = True
    hu = np.where(air, -900.0, 40.0)
    hu[4, 24, 44] = -310.0  # 1.5 mm from it
    hu[4, 25, 44] = -300.0
    hu[4, 24, 43] = -400.0
    found = airway_mask(hu, air=air, inside_kji=np.ones_like(air), spacing_kji_mm=(5.0, 1.5, 1.5))
    assert np.argwhere(found & ~air).tolist() == [[4, 24, 44]]
