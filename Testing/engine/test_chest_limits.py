"""What is a chest, and what is none: how much air, which scale, which padding."""

from __future__ import annotations

import numpy as np
import pytest
from CovidSegLib.anatomy.chest import find_chest, lungs_found
from CovidSegLib.anatomy.chest_masks import padding_value
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from helpers_phantom import small_phantom


def no_chest(kind: str) -> np.ndarray:
    rng, shape = np.random.default_rng(0), (40, 60, 60)
    hu = np.full(shape, -1000, np.int16)
    if kind in ("water block", "pipe of air"):
        hu[:, 10:50, 10:50] = 0
    if kind == "pipe of air":
        hu[:, 20:40, 20:40] = -1000
    return {
        "all water": np.zeros(shape, np.int16),
        "all padding": np.full(shape, -1024, np.int16),
        "all lung": np.full(shape, -700, np.int16),
        "noise around water": rng.normal(0, 300, shape).astype(np.int16),
        "noise around lung": rng.normal(-500, 300, shape).astype(np.int16),
        "flat noise": rng.integers(-1000, 1000, shape).astype(np.int16),
    }.get(kind, hu)


@pytest.mark.parametrize(
    "kind",
    [
        "water block",
        "pipe of air",
        "air",
        "all water",
        "all padding",
        "all lung",
        "noise around water",
        "noise around lung",
        "flat noise",
    ],
)
def test_volume_without_lungs_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"no lungs found: is this a chest CT in HU\?"):
        find_chest(no_chest(kind), spacing_mm=(5.0, 5.0, 5.0))
    assert not lungs_found(no_chest(kind), Geometry((60, 60, 40), (5.0, 5.0, 5.0)))


def water_with_air(size: tuple[int, int, int]) -> np.ndarray:
    """Return a noisy block of water with so many voxels of 4 mm (0.064 ml) of lung in it."""
    hu = np.random.default_rng(0).integers(-20, 20, (30, 40, 40)).astype(np.int16)
    hu[tuple(slice(5, 5 + n) for n in size)] = -800
    return hu


@pytest.mark.parametrize(("slices", "is_chest"), [(9, False), (10, True)], ids=["57.6 ml", "64 ml"])
def test_chest_holds_60_ml_of_air_filled_lung(slices: int, *, is_chest: bool) -> None:
    hu = water_with_air((slices, 10, 10))
    if is_chest:
        assert find_chest(hu, spacing_mm=(4.0, 4.0, 4.0)).aerated_ml == pytest.approx(64.0)
    else:
        with pytest.raises(InputError, match="Only 58 ml of air-filled lung"):
            find_chest(hu, spacing_mm=(4.0, 4.0, 4.0))


@pytest.mark.parametrize(("slices", "are_found"), [(16, False), (17, True)], ids=["296 ml", "314 ml"])
def test_lungs_that_speak_for_a_scale_of_hu_hold_300_ml(slices: int, *, are_found: bool) -> None:
    hu = water_with_air((slices, 17, 17))
    assert lungs_found(hu, Geometry((40, 40, 30), (4.0, 4.0, 4.0))) == are_found


@pytest.mark.parametrize(
    ("value", "is_padding"), [(-1024, True), (-900, True), (-899, False), (-201, False), (-200, True), (3000, True)]
)
def test_padding_is_one_value_on_more_than_three_tenths_of_the_border(value: int, *, is_padding: bool) -> None:
    image = np.arange(-800, -700).reshape(1, 10, 10)  # 40 voxels on the border, corners counted twice
    image[0, 0] = value
    assert padding_value(image) is None  # 12 of 40
    image[0, 5, 0] = value
    assert padding_value(image) == (value if is_padding else None)


def test_lungs_are_found_in_a_phantom_but_not_in_its_negative() -> None:
    ct = small_phantom(3).ct
    assert lungs_found(ct.hu_kji, ct.geometry)
    assert not lungs_found((-1000 - ct.hu_kji).astype(np.int16), ct.geometry)
