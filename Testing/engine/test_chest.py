"""The chest is found, and no lung is lost to the short cut: with or without air, cut, padded, thick or noisy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.anatomy.chest import find_chest
from CovidSegLib.geometry import Geometry
from CovidSegLib.orient import Orientation
from CovidSegLib.phantom import Phantom
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from CovidSegLib.resample import covering_axis, image_axes, resample_kji
from CovidSegLib.volume import read_ct
from helpers_phantom import SIZE_IJK, SPACING_IJK_MM, small_phantom

SOLID_HU = 40


def shares_kept(hu_kji: np.ndarray, lungs: np.ndarray, *, spacing_ijk_mm: Any = SPACING_IJK_MM) -> tuple[float, float]:
    """Return which share of the true lungs lies in the box, and which share is shown to the network.

    Args:
        hu_kji: Stored along the patient's axes.
        lungs: (k, j, i) bool, the truth.
        spacing_ijk_mm: Voxel size.
    """
    k, j, i = hu_kji.shape
    recipe = PreprocessingRecipe(spacing_ijk_mm=spacing_ijk_mm)
    found = preprocess(hu_kji, geometry=Geometry((i, j, k), spacing_ijk_mm), recipe=recipe)
    voxels = np.argwhere(lungs)
    points_mm = voxels * spacing_ijk_mm[::-1]
    box = np.array(found.chest.box_mm)
    in_box = ((points_mm >= box[:, 0]) & (points_mm <= box[:, 1])).all(axis=1)
    nearest = [np.rint((points_mm[:, n] - a.first_mm) / a.step_mm).astype(int) for n, a in enumerate(found.axes)]
    in_grid = np.all([(n >= 0) & (n < a.count) for n, a in zip(nearest, found.axes, strict=True)], axis=0)
    shown = found.inside_kji[tuple(n[in_grid] for n in nearest)]
    return float(in_box.mean()), float(shown.sum()) / len(voxels)


def assert_kept(
    hu_kji: np.ndarray, lungs: np.ndarray, *, spacing_ijk_mm: Any = SPACING_IJK_MM, shown_at_least: float = 0.99
) -> None:
    in_box, shown = shares_kept(hu_kji, lungs, spacing_ijk_mm=spacing_ijk_mm)
    assert in_box == 1.0
    assert shown > shown_at_least


def lungs_of(phantom: Phantom) -> np.ndarray:
    return phantom.lung_side_kji > 0


def made_solid(phantom: Phantom, where: np.ndarray) -> np.ndarray:
    """Return the CT with the air gone from a region: consolidation, effusion or collapse."""
    hu = phantom.ct.hu_kji.copy()
    hu[where] = np.random.default_rng(0).normal(SOLID_HU, 20, np.count_nonzero(where))
    return hu


def part_of_lungs(phantom: Phantom, *, axis: int, share: float, from_end: bool) -> np.ndarray:
    """Return the given share of both lungs that lies at one end of an axis."""
    lungs = lungs_of(phantom)
    position = np.indices(lungs.shape)[axis]
    cut = np.quantile(position[lungs], 1 - share if from_end else share)
    return lungs & ((position >= cut) if from_end else (position <= cut))


@pytest.mark.parametrize("seed", [3, 7])
@pytest.mark.parametrize(
    "finding",
    [
        {},
        {"consolidated_lung": "left"},
        {"consolidated_lung": "right"},
        {"effusion": "left"},
        {"effusion": "right"},
        {"missing_lung": "left"},
        {"missing_lung": "right"},
        {"infection_percent": 80.0},
    ],
    ids=str,
)
def test_lungs_are_kept_whatever_the_finding(seed: int, finding: dict[str, Any]) -> None:
    phantom = small_phantom(seed, **finding)
    assert_kept(phantom.ct.hu_kji, lungs_of(phantom))


@pytest.mark.parametrize(
    ("axis", "share", "from_end"),
    [(1, 0.5, True), (1, 0.7, True), (0, 0.5, False), (0, 0.2, True), (1, 0.2, False)],
    ids=["half at the back", "most at the back", "bases", "apices", "front"],
)
@pytest.mark.parametrize("seed", [3, 7])
def test_lungs_are_kept_if_both_are_consolidated_on_one_end(seed: int, axis: int, share: float, from_end: bool) -> None:
    phantom = small_phantom(seed)
    solid = part_of_lungs(phantom, axis=axis, share=share, from_end=from_end)
    assert_kept(made_solid(phantom, solid), lungs_of(phantom))


def test_box_is_the_whole_body_if_both_lungs_are_mostly_consolidated() -> None:
    phantom = small_phantom(3)
    hu = made_solid(phantom, part_of_lungs(phantom, axis=0, share=0.85, from_end=False))
    chest = find_chest(hu, spacing_mm=SPACING_IJK_MM[::-1])
    assert 60 < chest.aerated_ml < 1200
    for axis, (lower_mm, upper_mm) in enumerate(chest.box_mm):
        used = np.flatnonzero(chest.inside.any(axis=tuple(n for n in range(3) if n != axis)))
        centers_mm = chest.axes[axis].centers_mm
        assert lower_mm < centers_mm[used[0]] and upper_mm > centers_mm[used[-1]]
    assert_kept(hu, lungs_of(phantom))


@pytest.mark.parametrize("arm_side", [-1, 1], ids=["arm on the right", "arm on the left"])
@pytest.mark.parametrize("solid_side", [1, 2], ids=["left lung solid", "right lung solid"])
def test_solid_lung_is_kept_if_an_arm_shifts_the_middle_of_the_body(solid_side: int, arm_side: int) -> None:
    phantom = small_phantom(3)
    room = ((0, 0), (0, 0), (30, 30))
    hu = np.pad(made_solid(phantom, phantom.lung_side_kji == solid_side), room, constant_values=-1000)
    body = np.flatnonzero((hu[:, 35:50] > -300).mean(axis=(0, 1)) > 0.3)
    j, i = np.indices(hu.shape[1:])
    arm = (i - (body[-1 if arm_side > 0 else 0] + 8 * arm_side)) ** 2 + (j - 42) ** 2 < 12**2
    hu[:, arm] = np.maximum(hu[:, arm], SOLID_HU)
    assert_kept(hu, np.pad(lungs_of(phantom), room))


def test_arms_apart_from_the_body_are_outside() -> None:
    phantom = small_phantom(3, infection_percent=0.0)
    room = ((0, 0), (0, 0), (30, 30))
    hu = np.pad(phantom.ct.hu_kji, room, constant_values=-1000)
    j, i = np.indices(hu.shape[1:])
    arms = ((i - 12) ** 2 + (j - 42) ** 2 < 10**2) | ((i - 143) ** 2 + (j - 42) ** 2 < 10**2)
    hu[:, arms] = SOLID_HU
    assert_kept(hu, np.pad(lungs_of(phantom), room))
    k, j, i = hu.shape
    found = preprocess(
        hu, geometry=Geometry((i, j, k), SPACING_IJK_MM), recipe=PreprocessingRecipe(), crop_to_chest=False
    )
    columns_mm = found.axes[2].centers_mm
    assert not found.inside_kji[:, :, columns_mm < 20 * 4.0].any()
    assert not found.inside_kji[:, :, columns_mm > 136 * 4.0].any()


@pytest.mark.parametrize("solid", ["left", "right"])
@pytest.mark.parametrize("cut_ij", [(16, 0), (0, 16), (24, 24)], ids=str)
@pytest.mark.parametrize("seed", [7, 11])
def test_solid_lung_is_kept_in_a_cropped_field_of_view(seed: int, solid: str, cut_ij: tuple[int, int]) -> None:
    phantom = small_phantom(seed, infection_percent=5.0, consolidated_lung=solid)
    view = (slice(None), slice(None), slice(cut_ij[0], SIZE_IJK[0] - cut_ij[1]))
    assert_kept(phantom.ct.hu_kji[view], lungs_of(phantom)[view])


@pytest.mark.parametrize("radius_mm", [12, 18])
@pytest.mark.parametrize("seed", [3, 7])
def test_consolidation_that_the_border_of_the_image_cuts_off_is_inside(seed: int, radius_mm: int) -> None:
    phantom = small_phantom(seed, infection_percent=0.0)
    lungs = lungs_of(phantom)
    first, last = np.flatnonzero(lungs.any(axis=(0, 1)))[[0, -1]]
    middle_k = int(np.median(np.nonzero(lungs)[0]))
    outermost = min(np.argwhere(lungs[middle_k]), key=lambda place: place[1])
    offset_mm = (np.moveaxis(np.indices(lungs.shape), 0, -1) - (middle_k, *outermost)) * SPACING_IJK_MM[::-1]
    consolidation = lungs & (np.linalg.norm(offset_mm, axis=-1) <= radius_mm)
    hu = made_solid(phantom, consolidation)
    shown = np.zeros(hu.shape, bool)
    shown[:, :, first + 3 : last - 2] = True  # through both lungs
    hu[~shown] = -1024
    assert_kept(hu, consolidation & shown)
    assert_kept(hu, lungs & shown)


@pytest.mark.parametrize("seed", [3, 7, 11])
@pytest.mark.parametrize("center_x_mm", [-70.0, 0.0, 70.0])
def test_lungs_are_kept_in_a_small_field_of_view(seed: int, center_x_mm: float) -> None:
    spacing = (4.0, 3.9, 8.0)
    phantom = small_phantom(
        seed, size_ijk=(56, 46, 40), spacing_ijk_mm=spacing, center_lps_mm=(center_x_mm, 0.0, -15.0)
    )
    # Where the scanner's round field of view ends there is nothing to keep, and on its rim little.
    seen = lungs_of(phantom) & (phantom.ct.hu_kji > -1000)
    assert_kept(phantom.ct.hu_kji, seen, spacing_ijk_mm=spacing, shown_at_least=0.98)


def test_cropped_field_of_view_is_noticed() -> None:
    phantom = small_phantom(3)
    whole = find_chest(phantom.ct.hu_kji, spacing_mm=SPACING_IJK_MM[::-1])
    cut = find_chest(phantom.ct.hu_kji[:, :, 24:-24], spacing_mm=SPACING_IJK_MM[::-1])
    assert not whole.touches_side
    assert cut.touches_side


@pytest.mark.parametrize(("radius_voxels", "is_cut"), [(36, False), (28, True)])
def test_lungs_cut_by_a_round_field_of_view_are_noticed(radius_voxels: int, *, is_cut: bool) -> None:
    hu = small_phantom(3).ct.hu_kji.copy()
    j, i = np.indices(hu.shape[1:])
    hu[:, (j - 39.5) ** 2 + (i - 47.5) ** 2 > radius_voxels**2] = -1024
    chest = find_chest(hu, spacing_mm=SPACING_IJK_MM[::-1])
    assert chest.touches_padding == is_cut
    assert not chest.touches_side


@pytest.mark.parametrize("value", [-1024, -2000, -3024, 0, 250, 3000])
@pytest.mark.parametrize("shape", ["circle", "box"])
def test_padding_around_a_cropped_body_is_outside_and_lungs_are_kept(value: int, shape: str) -> None:
    phantom = small_phantom(3)
    j, i = np.indices(phantom.ct.hu_kji.shape[1:])
    if shape == "circle":
        padded = (j - 39.5) ** 2 + (i - 47.5) ** 2 > 36**2
    else:
        padded = (j < 14) | (j >= 66) | (i < 16) | (i >= 80)
    hu = phantom.ct.hu_kji.copy()
    hu[:, padded] = value
    hu[:3] = value  # and blank slices
    chest = find_chest(hu, spacing_mm=SPACING_IJK_MM[::-1])
    assert chest.padding_hu == value
    lungs = lungs_of(phantom) & ~padded
    lungs[:3] = False
    assert_kept(hu, lungs)


@pytest.mark.realdata
def test_scan_from_head_to_pelvis_is_cut_to_the_chest() -> None:
    phantom = small_phantom(3)
    hu = phantom.ct.hu_kji
    noise = np.random.default_rng(0)
    below = np.repeat(hu[:1], 60, axis=0) + noise.normal(0, 15, (60, *hu.shape[1:])).astype(np.int16)
    above = np.full((50, *hu.shape[1:]), -1000, np.int16)
    k, j, i = np.indices(below.shape)
    for center_k, center_i in ((12, 30), (25, 64), (38, 34), (48, 60)):  # gas in the bowel, up to 72 mm wide
        below[((k - center_k) * 5) ** 2 + ((j - 36) * 3.9) ** 2 + ((i - center_i) * 4) ** 2 < 36**2] = -990
    k, j, i = np.indices(above.shape)
    head = ((j - 40) * 3.9 / 95) ** 2 + ((i - 48) * 4 / 75) ** 2 < np.where(k < 20, 0.5, 1.0)
    above[head] = noise.normal(45, 15, np.count_nonzero(head))
    above[((j - 36) * 3.9) ** 2 + ((i - 48) * 4) ** 2 < 9**2] = -990  # windpipe and throat
    above[30:40, :36, 46:50] = -990  # through the nose to the air outside
    whole = np.concatenate([below, hu, above])
    lungs = np.pad(lungs_of(phantom), ((60, 50), (0, 0), (0, 0)))
    assert_kept(whole, lungs)
    spacing_mm = SPACING_IJK_MM[::-1]
    found, alone = find_chest(whole, spacing_mm=spacing_mm), find_chest(hu, spacing_mm=spacing_mm)
    assert found.aerated_ml == pytest.approx(alone.aerated_ml, rel=0.02)
    lowest_mm, highest_mm = (5.0 * index for index in np.flatnonzero(lungs.any(axis=(1, 2)))[[0, -1]])
    assert found.box_mm[0][0] > lowest_mm - 100 and found.box_mm[0][1] < highest_mm + 60


@pytest.mark.parametrize("coarse_axes", [(2,), (1,), (1, 2)], ids=["sagittal slices", "coronal slices", "pixels"])
def test_voxels_of_5_mm_across_the_body_lose_no_lung(data_dir: Path, coarse_axes: tuple[int, ...]) -> None:
    """A lean patient's chest wall is too thin for masks of such voxels."""
    ct = read_ct(data_dir / "ct" / "cap001.nii.gz")
    orientation = Orientation.of(ct.geometry)
    hu, spacing = orientation.view(ct.hu_kji), orientation.spacing_mm(ct.geometry)
    source = image_axes(hu.shape, spacing_kji_mm=spacing)
    target = tuple(covering_axis(axis, 5.0) if n in coarse_axes else axis for n, axis in enumerate(source))
    coarse = resample_kji(hu, source=source, target=target)
    found = find_chest(coarse, spacing_mm=tuple(axis.step_mm for axis in target))
    assert found.aerated_ml == pytest.approx(find_chest(hu, spacing_mm=spacing).aerated_ml, rel=0.1)


def test_body_mask_leaves_out_table_and_air() -> None:
    phantom = small_phantom(3, infection_percent=0.0)
    hu = np.where(phantom.ct.hu_kji > -3000, phantom.ct.hu_kji, 0)
    hu = np.pad(hu, ((0, 0), (0, 12), (0, 0)), constant_values=-1000)
    table = np.zeros(hu.shape, bool)
    table[:, 85:88, 10:86] = True
    hu[table] = -200
    chest = find_chest(hu, spacing_mm=SPACING_IJK_MM[::-1])
    rows_mm = chest.axes[1].centers_mm
    assert not chest.inside[:, rows_mm > 84 * 3.9].any()
    # Corners hold air only.
    assert not chest.inside[:, :8, :8].any() and not chest.inside[:, :8, -8:].any()
    dense = (hu > -300) & ~table
    body_ml = np.count_nonzero(dense | np.pad(lungs_of(phantom), ((0, 0), (0, 12), (0, 0)))) * 4 * 3.9 * 5 / 1000
    inside_ml = np.count_nonzero(chest.inside) * np.prod([a.step_mm for a in chest.axes]) / 1000
    assert inside_ml == pytest.approx(body_ml, rel=0.15)


@pytest.mark.parametrize("cut_i", [0, 20], ids=["whole table", "table cut by the image"])
def test_foam_of_the_table_is_neither_lung_nor_inside(cut_i: int) -> None:
    phantom = small_phantom(3)
    hu = np.pad(phantom.ct.hu_kji, ((0, 0), (0, 24), (0, 0)), constant_values=-1000)
    back = int(np.flatnonzero((hu > -300).any(axis=(0, 2)))[-1])
    ends = slice(None) if cut_i else slice(6, -6)
    hu[:, back + 3 : back + 17, ends] = 0  # the shell
    foam = np.zeros(hu.shape, dtype=bool)
    foam[:, back + 5 : back + 15, ends if cut_i else slice(8, -8)] = True
    hu[foam] = np.random.default_rng(0).normal(-850, 20, int(foam.sum()))
    view = (slice(None), slice(None), slice(cut_i, hu.shape[2] - cut_i))
    spacing_mm = SPACING_IJK_MM[::-1]

    untouched = find_chest(phantom.ct.hu_kji[view], spacing_mm=spacing_mm)
    found = find_chest(hu[view], spacing_mm=spacing_mm)
    assert found.aerated_ml == pytest.approx(untouched.aerated_ml, rel=0.02)
    share = resample_kji(
        foam[view],
        source=image_axes(foam[view].shape, spacing_kji_mm=spacing_mm),
        target=found.axes,
    )
    assert not found.inside[share > 0.5].any()


@pytest.mark.parametrize("seed", [3, 7])
def test_lungs_are_kept_on_thick_slices(seed: int) -> None:
    spacing = (4.0, 3.9, 8.0)
    phantom = small_phantom(seed, size_ijk=(96, 80, 40), spacing_ijk_mm=spacing)
    assert_kept(phantom.ct.hu_kji, lungs_of(phantom), spacing_ijk_mm=spacing)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_lungs_are_kept_on_very_few_slices(count: int) -> None:
    phantom = small_phantom(3)
    middle = slice(32, 32 + count)
    assert_kept(phantom.ct.hu_kji[middle], lungs_of(phantom)[middle])


@pytest.mark.parametrize("sigma_hu", [50, 150])
def test_lungs_are_kept_in_noise(sigma_hu: int) -> None:
    phantom = small_phantom(7)
    noise = np.random.default_rng(0).normal(0, sigma_hu, phantom.ct.hu_kji.shape)
    assert_kept((phantom.ct.hu_kji + noise).astype(np.int16), lungs_of(phantom))


def test_input_is_not_modified() -> None:
    hu = small_phantom(7).ct.hu_kji
    before = hu.copy()
    hu.flags.writeable = False
    try:
        find_chest(hu, spacing_mm=SPACING_IJK_MM[::-1])
    finally:
        hu.flags.writeable = True
    assert np.array_equal(hu, before)
