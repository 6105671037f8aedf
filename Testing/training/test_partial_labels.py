from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.labels import Label
from CovidSegLib.phantom import Phantom
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from helpers_training import SPACING_IJK_MM

from CovidSegTraining.label_codes import Code, possible_classes
from CovidSegTraining.label_files import labels_on_network_grid
from CovidSegTraining.partial_labels import whole_chest_codes

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
