"""The network's input: window, outside hidden, same for every storage order, same with and without the crop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from CovidSegLib.errors import InputError, ModelError
from CovidSegLib.geometry import Geometry
from CovidSegLib.intensity import to_hounsfield
from CovidSegLib.preprocess import (
    NetworkInput,
    PreprocessingRecipe,
    network_axes,
    preprocess,
    scale_hu,
    without_spare_rim,
)
from CovidSegLib.resample import AxisGrid, image_axes
from CovidSegLib.volume import CTVolume
from helpers_phantom import reordered_ct, rotated, small_phantom
from scipy import ndimage

COARSE = PreprocessingRecipe(spacing_ijk_mm=(4.0, 4.0, 5.0))
OUTSIDE = (40.0 + 500.0) / 750.0


def network_input(ct: CTVolume, *, crop_to_chest: bool = True, recipe: PreprocessingRecipe = COARSE) -> NetworkInput:
    return preprocess(ct.hu_kji, geometry=ct.geometry, recipe=recipe, crop_to_chest=crop_to_chest)


def test_window_is_mapped_exactly_and_clipped() -> None:
    hu = np.array([-3024.0, -1250.0, -500.0, 250.0, 1500.0, -875.0], np.float32)
    assert scale_hu(hu, window_hu=(-1250.0, 250.0)).tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0, -0.5]


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_scaling_gives_new_float32_values(kind: type) -> None:
    hu = np.array([-1250, 250], kind)
    scaled = scale_hu(hu, window_hu=(-1250.0, 250.0))
    assert scaled.dtype == np.float32 and scaled.tolist() == [-1.0, 1.0]
    assert hu.tolist() == [-1250, 250]


def test_paper_recipe_is_the_default() -> None:
    recipe = PreprocessingRecipe()
    assert recipe.spacing_ijk_mm == (1.58, 1.58, 2.70)
    assert recipe.window_hu == (-1250.0, 250.0)
    assert PreprocessingRecipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spacing": [1, 1, 1]}, "unknown key 'spacing'"),
        ({"spacing_ijk_mm": [1, 0, 1]}, "spacings must be positive"),
        ({"spacing_ijk_mm": [1, 1]}, "spacing_ijk_mm must be 3 numbers"),
        ({"window_hu": [250, -1250]}, "lower end"),
        ({"window_hu": [250, 250]}, "lower end"),
        ({"window_hu": [250]}, "window_hu must be 2 numbers"),
        ({"kernel_voxels": 0.9}, "kernel"),
        ({"kernel_voxels": 4.1}, "kernel"),
    ],
)
def test_impossible_recipe_is_refused_with_what_is_wrong(values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PreprocessingRecipe.from_dict(values)


def test_network_grid_covers_the_volume_or_the_box_in_it() -> None:
    source = image_axes((40, 100, 120), spacing_kji_mm=(5.0, 2.0, 2.0))
    whole = network_axes(source, recipe=COARSE)
    assert [axis.count for axis in whole] == [40, 50, 60]
    box = ((20.0, 150.0), (-50.0, 90.0), (60.0, 900.0))
    cut = network_axes(source, recipe=COARSE, box_mm=box)
    for axis, (lower_mm, upper_mm), all_of_it, given in zip(cut, box, whole, source, strict=True):
        assert axis.centers_mm[0] <= max(lower_mm, given.centers_mm[0] + 5)
        assert axis.centers_mm[-1] >= min(upper_mm, given.centers_mm[-1] - 5)
        # Its voxels are voxels of the whole grid.
        offset = (axis.first_mm - all_of_it.first_mm) / all_of_it.step_mm
        assert offset == pytest.approx(round(offset), abs=1e-6)


def test_image_is_float32_within_the_window_and_the_input_is_not_modified() -> None:
    ct = small_phantom(3).ct
    before = ct.hu_kji.copy()
    found = network_input(ct)
    assert np.array_equal(ct.hu_kji, before)
    assert found.image_kji.dtype == np.float32
    assert found.image_kji.min() >= -1.0 and found.image_kji.max() <= 1.0
    assert found.image_kji.shape == found.inside_kji.shape == tuple(axis.count for axis in found.axes)
    assert found.spacing_kji_mm == (5.0, 4.0, 4.0)
    assert found.voxel_ml == pytest.approx(0.08)


def test_outside_the_patient_is_soft_tissue_and_inside_is_the_ct() -> None:
    ct = small_phantom(3, infection_percent=0.0).ct
    found = network_input(ct, crop_to_chest=False)
    assert np.allclose(found.image_kji[~found.inside_kji], OUTSIDE, atol=1e-6)
    assert not found.inside_kji[:, 0, 0].any()
    lungs = found.image_kji < scale_hu(np.array([-600.0]), window_hu=COARSE.window_hu)[0]
    lung_ml = np.count_nonzero(lungs) * found.voxel_ml
    assert lung_ml == pytest.approx(small_phantom(3, infection_percent=0.0).truth.lung_ml, rel=0.15)


@pytest.mark.parametrize("kernel_voxels", [1.0, 1.6])
@pytest.mark.parametrize("value", [-1024, -2000, -3024])
def test_padding_leaves_no_dark_rim_where_it_cuts_the_lung(value: int, kernel_voxels: float) -> None:
    phantom = small_phantom(3, infection_percent=0.0)
    hu = phantom.ct.hu_kji.copy()
    hu[:, :, :20] = hu[:, :, 76:] = value  # through both lungs
    recipe = replace(COARSE, kernel_voxels=kernel_voxels)
    found = preprocess(hu, geometry=phantom.ct.geometry, recipe=recipe, crop_to_chest=False)
    darkest_lung = scale_hu(np.array([-1010.0]), window_hu=COARSE.window_hu)[0]
    assert found.image_kji.min() >= darkest_lung - 0.02
    columns_mm = found.axes[2].centers_mm
    assert not found.inside_kji[:, :, (columns_mm < 18 * 4.0) | (columns_mm > 78 * 4.0)].any()


#: Two turns of the axes and two exchanges, with different flips.
STORAGES = [
    ((1, 2, 0), (False, True, True)),
    ((2, 0, 1), (True, False, True)),
    ((0, 2, 1), (True, True, False)),
    ((2, 1, 0), (True, True, True)),
]


@pytest.mark.parametrize(("order", "flips"), STORAGES)
def test_storage_order_does_not_change_the_image(order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    ct = small_phantom(3).ct
    straight, other = network_input(ct), network_input(reordered_ct(ct, order=order, flips=flips))
    assert other.image_kji == pytest.approx(straight.image_kji, abs=1e-5)
    assert np.array_equal(other.inside_kji, straight.inside_kji)


def test_oblique_grid_is_taken_along_its_own_axes() -> None:
    ct = small_phantom(3).ct
    turned = preprocess(ct.hu_kji, geometry=rotated(ct.geometry, degrees=30.0, axis=0), recipe=COARSE)
    assert np.array_equal(turned.image_kji, network_input(ct).image_kji)


def test_crop_changes_no_value() -> None:
    ct = small_phantom(3).ct
    whole, cut = network_input(ct, crop_to_chest=False), network_input(ct)
    assert cut.image_kji.size < whole.image_kji.size
    where = tuple(
        slice(start := round((c.first_mm - w.first_mm) / w.step_mm), start + c.count)
        for c, w in zip(cut.axes, whole.axes, strict=True)
    )
    assert cut.image_kji == pytest.approx(whole.image_kji[where], abs=1e-5)
    assert np.array_equal(cut.inside_kji, whole.inside_kji[where])
    assert not (whole.image_kji[: where[0].start] < -0.4).any()


def test_sharp_noise_is_averaged_on_a_fine_ct() -> None:
    ct = small_phantom(3, infection_percent=0.0).ct
    rng = np.random.default_rng(0)
    noisy = (ct.hu_kji + rng.normal(0, 80, ct.hu_kji.shape)).astype(np.int16)
    coarse = PreprocessingRecipe(spacing_ijk_mm=(8.0, 8.0, 10.0))
    a, b = (preprocess(hu, geometry=ct.geometry, recipe=coarse, crop_to_chest=False) for hu in (ct.hu_kji, noisy))
    both = a.inside_kji & b.inside_kji & (a.image_kji > -0.95) & (a.image_kji < 0.95)
    assert (a.image_kji - b.image_kji)[both].std() * 750 < 0.45 * 80


def test_wide_kernel_makes_sharp_and_soft_scans_alike() -> None:
    ct = small_phantom(3).ct
    soft = ndimage.gaussian_filter(ct.hu_kji.astype(np.float32), 0.6)
    differences = []
    for kernel_voxels in (1.0, 2.0):
        recipe = replace(COARSE, kernel_voxels=kernel_voxels)
        a, b = (preprocess(hu, geometry=ct.geometry, recipe=recipe, crop_to_chest=False) for hu in (ct.hu_kji, soft))
        differences.append(np.abs(a.image_kji - b.image_kji)[a.inside_kji & b.inside_kji].mean())
    assert differences[1] < 0.6 * differences[0]


def test_grey_ct_gives_nearly_the_same_image() -> None:
    ct = small_phantom(3).ct
    grey = np.rint((np.clip(ct.hu_kji, -1250.0, 250.0) + 1250) * 255 / 1500).astype(np.uint8)
    as_grey = CTVolume(grey, ct.geometry, "grey", "sha256:0")
    mapped = to_hounsfield(as_grey)
    straight, found = network_input(ct), network_input(mapped)
    assert len(mapped.warnings) == 1 and "8-bit grey" in mapped.warnings[0]
    assert found.image_kji.shape == straight.image_kji.shape
    assert np.abs(found.image_kji - straight.image_kji).mean() < 0.004
    assert np.mean(found.inside_kji == straight.inside_kji) > 0.999


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_ct_with_offset_gives_the_same_image(kind: type) -> None:
    ct = small_phantom(3).ct
    offset = CTVolume((ct.hu_kji.astype(np.int32) + 1024).astype(kind), ct.geometry, "offset", "sha256:0")
    mapped = to_hounsfield(offset)
    straight, found = network_input(ct), network_input(mapped)
    assert len(mapped.warnings) == 1 and "1024" in mapped.warnings[0]
    assert found.image_kji == pytest.approx(straight.image_kji, abs=0.01)


def test_volume_without_lungs_is_refused() -> None:
    with pytest.raises(InputError, match="no lungs found"):
        preprocess(np.zeros((20, 30, 30), np.int16), geometry=Geometry((30, 30, 20), (5.0, 5.0, 5.0)), recipe=COARSE)


def test_axis_of_the_network_input_points_back_to_the_ct() -> None:
    ct = small_phantom(3).ct
    found = network_input(ct)
    assert found.source_axes == (AxisGrid(0.0, 5.0, 64), AxisGrid(0.0, 3.9, 80), AxisGrid(0.0, 4.0, 96))


def test_hu_inside_the_window_come_back_from_the_scale() -> None:
    window_hu = (-1250.0, 250.0)
    hu = np.array([-2000.0, -1250.0, -500.0, 40.0, 250.0, 900.0])
    seen = replace(network_input(small_phantom(3).ct), image_kji=scale_hu(hu, window_hu=window_hu), window_hu=window_hu)
    assert seen.hu_kji == pytest.approx(np.clip(hu, *window_hu))


@pytest.mark.parametrize(("count", "kept"), [(242, 240), (247, 240), (248, 248), (240, 240), (163, 160), (150, 150)])
def test_a_few_voxels_of_room_are_given_up_for_a_row_of_patches(count: int, kept: int) -> None:
    axis = AxisGrid(5.0, 1.58, count)
    cut = without_spare_rim(axis)
    assert cut.count == kept
    # On both sides alike, and the grid stays where it was.
    lost = count - kept
    assert cut.first_mm == pytest.approx(5.0 + lost // 2 * 1.58)
