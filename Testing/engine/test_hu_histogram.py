"""How HU are distributed: curves whose shares were counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import Label
from CovidSegLib.quantify import Quantities, quantify_labelmap
from CovidSegLib.results.hu_histogram import BIN_MIDDLES_HU, HuHistogram


def percent_per_bin(values_hu: list[float]) -> np.ndarray:
    return HuHistogram(*np.unique(np.array(values_hu, dtype=float), return_counts=True)).percent_per_bin()


def filled(percent: np.ndarray) -> dict[float, float]:
    """Return the bins that hold something: middle in HU -> per cent."""
    return {float(hu): float(share) for hu, share in zip(BIN_MIDDLES_HU, percent, strict=True) if share}


def quantities_of(*, lung_hu: list[int], infection_hu: list[int]) -> Quantities:
    """Return the quantities of a left lung of voxels of 1 ml."""
    hu_kji = np.array([[lung_hu + infection_hu]], dtype=np.int16)
    labels_kji = np.array([[[Label.LEFT_LUNG] * len(lung_hu) + [Label.INFECTION] * len(infection_hu)]], dtype=np.uint8)
    return quantify_labelmap(hu_kji, geometry=Geometry((hu_kji.size, 1, 1), (10.0,) * 3), labelmap_kji=labels_kji)


def test_value_on_an_edge_belongs_to_the_bin_above() -> None:
    percent = percent_per_bin([-1100, -1075.5, -1075, 0, 0, 24.9, 25, 175, 199.5, 199])
    assert filled(percent) == {-1087.5: 20.0, -1062.5: 10.0, 12.5: 30.0, 37.5: 10.0, 187.5: 30.0}


def test_what_lies_beyond_the_bins_counts_towards_the_whole() -> None:
    assert filled(percent_per_bin([-1101, -2000, 200, 3000, -800])) == {-787.5: 20.0}


def test_no_voxels_have_no_share() -> None:
    assert filled(percent_per_bin([])) == {}


def test_curves_are_of_the_lungs_with_their_infection_and_of_the_infection() -> None:
    density = quantities_of(lung_hu=[-860, -860, -840], infection_hu=[-600]).density
    assert filled(density.lungs_percent) == {-862.5: 50.0, -837.5: 25.0, -587.5: 25.0}
    assert filled(density.infection_percent) == {-587.5: 100.0}


def test_plane_with_a_single_voxel_counts() -> None:
    assert filled(quantities_of(lung_hu=[-860], infection_hu=[]).density.lungs_percent) == {-862.5: 100.0}


def test_parts_of_the_curves_are_the_composition() -> None:
    found = quantities_of(lung_hu=[-980, -951, -950, -701, -699], infection_hu=[-301, -300, -299, 40])
    lungs_ml = found.density.lungs_percent / 100.0 * 9
    infection_ml = found.density.infection_percent / 100.0 * 4
    low, aerated, dense = np.searchsorted(BIN_MIDDLES_HU, (-950, -700, -300))
    assert found.composition.low_attenuation_ml == pytest.approx(lungs_ml[:low].sum()) == 2.0
    assert found.composition.well_aerated_ml == pytest.approx(lungs_ml[low:aerated].sum()) == 2.0
    assert found.composition.ground_glass_ml == pytest.approx(infection_ml[:dense].sum()) == 1.0
    assert found.composition.consolidation_ml == pytest.approx(infection_ml[dense:].sum()) == 3.0
