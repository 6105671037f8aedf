from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.orient import Orientation
from CovidSegLib.phantom import Phantom
from CovidSegLib.preprocess import NetworkInput, PreprocessingRecipe
from CovidSegLib.resample import image_axes
from CovidSegLib.segmentation_file import write_labelmap_nifti
from helpers_training import SPACING_IJK_MM, ball_case, write_nifti

from CovidSegTraining import prepare as prepare_module
from CovidSegTraining.cache import read_case, write_case
from CovidSegTraining.data import (
    HELD_OUT,
    MEASURED_ONLY,
    DataConfig,
    LabelledCases,
    LungMask,
    Phantoms,
    WholeChest,
)
from CovidSegTraining.label_files import labels_on_network_grid, read_labels
from CovidSegTraining.prepare import build_labelled, build_phantom, prepare
from CovidSegTraining.product import partial_labels
from CovidSegTraining.product.label_codes import Code
from CovidSegTraining.product.recipe import read_settings

RECIPE = PreprocessingRecipe(spacing_ijk_mm=SPACING_IJK_MM)
LISTS = DataConfig(
    labelled=LabelledCases(),
    whole_chests=(WholeChest("ct/chest_a.nii.gz", diseased=True, weight=1.5),),
    lungs=(LungMask("lungs/elastix", side="right", weight=0.4),),
    phantoms=Phantoms(count=0),
)


def _prepare(config: DataConfig, data: Path, cache: Path, recipe: PreprocessingRecipe = RECIPE) -> list[str]:
    lines: list[str] = []
    prepare(config, data_dir=data, cache_dir=cache, preprocessing=recipe, tell=lines.append)
    return lines


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, phantom_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    _prepare(LISTS, phantom_data, folder)
    return folder


def test_every_listed_case_is_prepared_but_the_held_out(cache: Path) -> None:
    assert {path.stem for path in cache.glob("*")} == {"coronacases_001", "chest_a", "elastix"}


def test_measured_only_is_what_the_data_folder_names() -> None:
    assert {"coronacases_003", "coronacases_008", "radiopaedia_40_86625_0"} == HELD_OUT
    assert (
        HELD_OUT
        | {f"imlab_00{n}" for n in (1, 2, 3, 4)}
        | {
            "normal001",
            "tumour_5mm_soft",
            "tumour_5mm_sharp",
        }
        == MEASURED_ONLY
    )


@pytest.mark.parametrize("name", sorted(MEASURED_ONLY))
@pytest.mark.parametrize("place", ["ct/{}.nii.gz", "lungs/{}", "muller20/{}/imaging.nii.gz"])
def test_measured_only_cases_can_never_be_listed(tmp_path: Path, phantom_data: Path, name: str, place: str) -> None:
    path = place.format(name)
    lists: list[DataConfig] = [
        replace(LISTS, labelled=None, whole_chests=(WholeChest(path, diseased=True),), lungs=()),
        replace(LISTS, labelled=None, whole_chests=(), lungs=(LungMask(path, side="left"),)),
    ]
    for config in lists:
        with pytest.raises(InputError, match=rf"'{name}' is measured only"):
            _prepare(config, phantom_data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_measured_only_case_beside_the_labelled_ones_is_refused(tmp_path: Path, ill: Phantom) -> None:
    folder = tmp_path / "data" / "muller20" / "normal001"
    for name in ("imaging", "segmentation", "valid"):
        write_nifti(folder / f"{name}.nii.gz", ill.labelmap_kji, geometry=ill.ct.geometry)
    with pytest.raises(InputError, match="measured only"):
        _prepare(replace(LISTS, whole_chests=(), lungs=()), tmp_path / "data", tmp_path / "cache")


def test_product_lists_name_nothing_measured_only() -> None:
    data = read_settings().data
    paths = [chest.path for chest in data.whole_chests] + [mask.path for mask in data.lungs]
    assert len(paths) == 5
    for path in paths:
        assert not {part.split(".")[0] for part in Path(path).parts} & MEASURED_ONLY


def test_labelled_case_is_unknown_where_its_image_is(cache: Path, ill: Phantom) -> None:
    case = read_case(cache / "coronacases_001.npz")
    assert case.hu_kji.dtype == np.int16 and case.codes_kji.dtype == np.uint8 and case.weight == 1.0
    assert case.hu_kji.shape == case.codes_kji.shape
    known_planes = (case.codes_kji != Code.UNKNOWN).all(axis=(1, 2))
    assert (case.codes_kji[:5] == Code.UNKNOWN).all() and (case.codes_kji[-5:] == Code.UNKNOWN).all()
    assert known_planes[8:-8].all()
    # The same tissue, the same volume: labels survive the change of grid.
    voxel_ml = np.prod(SPACING_IJK_MM) / 1000
    for label in (1, 2, 3):
        expected_ml = (ill.labelmap_kji[6:-6] == label).sum() * ill.ct.geometry.voxel_volume_ml
        assert (case.codes_kji == label).sum() * voxel_ml == pytest.approx(expected_ml, rel=0.12)


def test_labelled_case_without_a_mask_of_what_is_known_is_known_all_over(tmp_path: Path, ill: Phantom) -> None:
    folder = tmp_path / "muller20" / "case"
    write_nifti(folder / "imaging.nii.gz", ill.ct.hu_kji, geometry=ill.ct.geometry)
    write_nifti(folder / "segmentation.nii.gz", ill.labelmap_kji, geometry=ill.ct.geometry)
    lists = replace(LISTS, whole_chests=(), lungs=(), phantoms=replace(LISTS.phantoms, count=0))
    _prepare(lists, tmp_path, tmp_path / "cache")
    assert (read_case(tmp_path / "cache" / "case.npz").codes_kji != Code.UNKNOWN).all()


def test_one_sided_mask_teaches_its_side_and_leaves_other_air_open(cache: Path) -> None:
    case = read_case(cache / "elastix.npz")
    assert case.weight == 0.4
    assert set(np.unique(case.codes_kji)) == {Code.BACKGROUND, Code.RIGHT_LUNG, Code.UNKNOWN}
    assert np.median(case.hu_kji[case.codes_kji == Code.RIGHT_LUNG]) < -700
    left_half = case.codes_kji[:, :, case.codes_kji.shape[2] // 2 + 10 :]
    assert not (left_half == Code.RIGHT_LUNG).any() and (left_half == Code.UNKNOWN).any()


def test_second_run_leaves_all_as_it_is(cache: Path, phantom_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert all(line.endswith("already prepared") for line in _prepare(LISTS, phantom_data, cache))
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_cases_are_kept_sharp_for_a_network_with_a_wide_kernel(cache: Path, phantom_data: Path) -> None:
    lines = _prepare(LISTS, phantom_data, cache, replace(RECIPE, kernel_voxels=1.6))
    assert all("already prepared" in line for line in lines)


def test_changed_recipe_entry_or_file_builds_the_case_again(tmp_path: Path, phantom_data: Path, ill: Phantom) -> None:
    data = tmp_path / "data"
    write_nifti(data / "ct" / "chest_a.nii.gz", ill.ct.hu_kji, geometry=ill.ct.geometry)
    chest = replace(LISTS, labelled=None, lungs=())
    healthy = replace(chest, whole_chests=(WholeChest("ct/chest_a.nii.gz", diseased=False, weight=1.5),))
    keys = []
    for change in (chest, healthy):
        assert "already" not in _prepare(change, data, tmp_path / "cache")[0]
        keys.append(read_case(tmp_path / "cache" / "chest_a.npz").key)
    assert "already" in _prepare(healthy, data, tmp_path / "cache")[0]
    recipe = replace(RECIPE, outside_hu=30.0)
    assert "already" not in _prepare(healthy, data, tmp_path / "cache", recipe)[0]
    keys.append(read_case(tmp_path / "cache" / "chest_a.npz").key)
    write_nifti(data / "ct" / "chest_a.nii.gz", ill.ct.hu_kji + np.int16(1), geometry=ill.ct.geometry)
    assert "already" not in _prepare(healthy, data, tmp_path / "cache", recipe)[0]
    keys.append(read_case(tmp_path / "cache" / "chest_a.npz").key)
    assert len(set(keys)) == 4


def test_changed_weight_keeps_the_codes_that_were_added_later(tmp_path: Path, phantom_data: Path) -> None:
    chest = replace(LISTS, labelled=None, lungs=())
    _prepare(chest, phantom_data, tmp_path)
    path = tmp_path / "chest_a.npz"
    case = read_case(path)
    write_case(path, replace(case, codes_kji=case.codes_kji * 0, partial_kji=case.codes_kji, labelled_by="x"))
    heavier = replace(chest, whole_chests=(WholeChest("ct/chest_a.nii.gz", diseased=True, weight=3.0),))
    _prepare(heavier, phantom_data, tmp_path)
    again = read_case(path)
    assert again.weight == 3.0 and not again.codes_kji.any() and again.labelled_by == "x"


def test_case_taken_off_the_lists_leaves_the_cache(tmp_path: Path, phantom_data: Path) -> None:
    _prepare(replace(LISTS, labelled=None), phantom_data, tmp_path)
    lines = _prepare(replace(LISTS, labelled=None, lungs=()), phantom_data, tmp_path)
    assert lines[-1].startswith("elastix: removed")
    assert [path.name for path in tmp_path.iterdir()] == ["chest_a.npz"]


def test_foreign_file_in_the_cache_is_refused_not_removed(tmp_path: Path, phantom_data: Path) -> None:
    write_case(tmp_path / "mine.npz", ball_case(seed=0))
    with pytest.raises(InputError, match=r"mine.npz.*move it away"):
        _prepare(replace(LISTS, labelled=None, lungs=()), phantom_data, tmp_path)
    assert (tmp_path / "mine.npz").exists()


def test_phantoms_take_their_findings_in_turn(tmp_path: Path, ill: Phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def fake(**arguments: Any) -> Phantom:
        calls.append(arguments)
        return ill

    monkeypatch.setattr("CovidSegLib.phantom.make_phantom", fake)
    config = DataConfig(labelled=None, phantoms=Phantoms(count=12, first_seed=70, weight=0.2))
    monkeypatch.setattr(prepare_module, "PHANTOM_FINDINGS", ({}, {"infection_percent": 0.0}))
    _prepare(replace(config, phantoms=Phantoms(count=2, first_seed=70, weight=0.2)), tmp_path, tmp_path / "cache")
    assert [call["seed"] for call in calls] == [70, 71]
    assert "infection_percent" not in calls[0] and calls[1]["infection_percent"] == 0.0
    spacing = calls[0]["spacing_ijk_mm"]
    assert 1.0 <= spacing[0] == spacing[1] <= 2.0
    case = read_case(tmp_path / "cache" / "phantom_70.npz")
    assert set(np.unique(case.codes_kji)) == {0, 1, 2, 3} and case.weight == 0.2


def test_labels_on_another_grid_are_refused(tmp_path: Path, phantom_data: Path, ill: Phantom) -> None:
    folder = tmp_path / "muller20" / "case"
    write_nifti(folder / "imaging.nii.gz", ill.ct.hu_kji, geometry=ill.ct.geometry)
    shifted = replace(ill.ct.geometry, origin_lps_mm=(5.0, 0.0, 0.0))
    write_nifti(folder / "segmentation.nii.gz", ill.labelmap_kji, geometry=shifted)
    write_nifti(folder / "valid.nii.gz", ill.labelmap_kji, geometry=ill.ct.geometry)
    with pytest.raises(InputError, match=r"segmentation.nii.gz.*differs from the CT"):
        _prepare(replace(LISTS, whole_chests=(), lungs=()), tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("value", [256, 0.5, -1])
def test_values_that_are_no_labels_are_refused_and_not_folded_into_one(tmp_path: Path, value: float) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.full((3, 4, 5), value, np.float32))
    sitk.WriteImage(image, str(tmp_path / "labels.nii.gz"))
    with pytest.raises(InputError, match="whole numbers from 0 to 255"):
        read_labels(tmp_path / "labels.nii.gz", geometry=Geometry.from_sitk(image))


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz", "labels.nrrd", "labels.mha"])
def test_labels_cut_short_are_refused_and_not_filled_in(tmp_path: Path, name: str) -> None:
    path, geometry = tmp_path / name, Geometry((30, 20, 10), (1.0, 1.0, 2.0))
    write_nifti(path, np.random.default_rng(0).integers(0, 4, geometry.shape_kji, np.uint8), geometry=geometry)
    assert read_labels(path, geometry=geometry).max() == 3
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{name}' cannot be read: it is damaged, cut short"):
        read_labels(path, geometry=geometry)


def test_labelmap_of_a_slightly_sheared_ct_lies_on_its_grid(tmp_path: Path) -> None:
    sheared = Geometry((30, 20, 10), (1.0, 1.0, 2.0), direction_lps=(1.0, 0.005, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    labels_kji = np.random.default_rng(0).integers(0, 4, sheared.shape_kji, np.uint8)
    write_labelmap_nifti(tmp_path / "labels.nii.gz", labelmap_kji=labels_kji, geometry=sheared)
    assert np.array_equal(read_labels(tmp_path / "labels.nii.gz", geometry=sheared), labels_kji)


def test_labels_are_turned_as_the_image_is() -> None:
    mirrored = Geometry((6, 5, 4), (1.0, 1.0, 1.0), direction_lps=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    labels_kji = np.random.default_rng(0).integers(0, 4, mirrored.shape_kji, np.uint8)
    axes = image_axes(labels_kji.shape, spacing_kji_mm=(1.0, 1.0, 1.0))
    seen = SimpleNamespace(
        orientation=Orientation.of(mirrored), image_kji=np.zeros((4, 5, 6)), source_axes=axes, axes=axes
    )
    found = labels_on_network_grid(labels_kji, network_input=cast(NetworkInput, seen), classes=4)
    np.testing.assert_array_equal(found, labels_kji[:, :, ::-1])


def test_labels_that_are_no_numbers_are_refused_and_not_taken_for_background(tmp_path: Path) -> None:
    geometry = Geometry((4, 3, 2), (1.0, 1.0, 2.0))
    labels_kji = np.zeros(geometry.shape_kji, np.float32)
    labels_kji[1, 1, 1] = np.nan
    write_nifti(tmp_path / "labels.nii.gz", labels_kji, geometry=geometry)
    with pytest.raises(InputError, match=r"1 voxel\(s\) are NaN"):
        read_labels(tmp_path / "labels.nii.gz", geometry=geometry)


def test_cases_of_one_name_are_refused_as_one_would_replace_the_other(tmp_path: Path, phantom_data: Path) -> None:
    chest = WholeChest("ct/chest_a.nii.gz", diseased=True)
    with pytest.raises(InputError, match="2 cases of the settings are named 'chest_a'"):
        _prepare(replace(LISTS, whole_chests=(chest, chest)), phantom_data, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_lists_without_a_case_do_not_empty_the_cache(tmp_path: Path) -> None:
    write_case(tmp_path / "a.npz", replace(ball_case(seed=0), key="of prepare"))
    with pytest.raises(InputError, match="name no case to learn from"):
        _prepare(DataConfig(labelled=None, phantoms=Phantoms(count=0)), tmp_path, tmp_path)
    assert (tmp_path / "a.npz").exists()


def test_weak_case_that_is_not_there_is_named(tmp_path: Path, phantom_data: Path) -> None:
    lists = replace(LISTS, labelled=LabelledCases(weak=("coronacases_001", "coronacases_00l")), whole_chests=())
    lines = _prepare(lists, phantom_data, tmp_path)
    assert [line for line in lines if "warning" in line] == [
        f"warning: data.labelled.weak names 'coronacases_00l', which is not in {phantom_data / 'muller20'}"
    ]


def test_chest_whose_lungs_cannot_be_told_apart_is_named(
    tmp_path: Path, phantom_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_labels, "_shrink", lambda air, *_: air & False)
    with pytest.raises(InputError, match=r"chest_a.nii.gz: left and right lung cannot .*; take it out of data.whole"):
        _prepare(replace(LISTS, labelled=None, lungs=()), phantom_data, tmp_path)


def test_case_without_lungs_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "muller20" / "water"
    water = np.random.default_rng(0).normal(0, 50, (24, 30, 30)).astype(np.int16)
    for name in ("imaging", "segmentation"):
        write_nifti(folder / f"{name}.nii.gz", water, geometry=Geometry((30, 30, 24), (6.0, 6.0, 8.0)))
    with pytest.raises(InputError, match=r"water.imaging.nii.gz: .*no lungs found"):
        _prepare(replace(LISTS, whole_chests=(), lungs=()), tmp_path, tmp_path / "cache")


def test_unlabelled_air_of_a_weak_case_is_open_and_nothing_else(phantom_data: Path) -> None:
    folder = phantom_data / "muller20" / "coronacases_001"
    hu, strong = build_labelled(folder, recipe=RECIPE, weak=False)
    _, weak = build_labelled(folder, recipe=RECIPE, weak=True)
    air = (strong == Code.BACKGROUND) & (hu < -500)
    assert air.any() and (weak[air] == Code.UNKNOWN).all()
    np.testing.assert_array_equal(weak[~air], strong[~air])


def test_case_that_becomes_weak_or_less_known_is_built_again(tmp_path: Path, ill: Phantom) -> None:
    folder, cache = tmp_path / "muller20" / "case", tmp_path / "cache"
    write_nifti(folder / "imaging.nii.gz", ill.ct.hu_kji, geometry=ill.ct.geometry)
    write_nifti(folder / "segmentation.nii.gz", ill.labelmap_kji, geometry=ill.ct.geometry)
    lists = replace(LISTS, whole_chests=(), lungs=())
    weak = replace(lists, labelled=LabelledCases(weak=("case",), weight=2.0, weak_weight=0.25))
    assert "already" not in _prepare(lists, tmp_path, cache)[0]
    assert "already" not in _prepare(weak, tmp_path, cache)[0] and "already" in _prepare(weak, tmp_path, cache)[0]
    assert read_case(cache / "case.npz").weight == 0.25
    valid = np.zeros(ill.labelmap_kji.shape, dtype=np.uint8)
    valid[:20] = 1
    write_nifti(folder / "valid.nii.gz", valid, geometry=ill.ct.geometry)
    assert "already" not in _prepare(weak, tmp_path, cache)[0]
    assert (read_case(cache / "case.npz").codes_kji[20:] == Code.UNKNOWN).all()


def test_line_on_a_case_tells_its_size_and_the_share_of_every_code(
    tmp_path: Path, phantom_data: Path, cache: Path
) -> None:
    left = replace(LISTS, labelled=None, whole_chests=(), lungs=(LungMask("lungs/elastix", side="left"),))
    (line,) = _prepare(left, phantom_data, tmp_path / "new" / "cache")
    codes = read_case(tmp_path / "new" / "cache" / "elastix.npz").codes_kji
    right = read_case(cache / "elastix.npz").codes_kji
    np.testing.assert_array_equal(codes, np.where(right == Code.RIGHT_LUNG, Code.LEFT_LUNG, right))
    k, j, i = codes.shape
    background, lung, unknown = (100 * (codes == c).mean() for c in (Code.BACKGROUND, Code.LEFT_LUNG, Code.UNKNOWN))
    assert line == (
        f"elastix: {k}x{j}x{i}, background {background:.1f} %, left_lung {lung:.1f} %, right_lung 0.0 %, "
        "infection 0.0 %, left_or_infection 0.0 %, right_or_infection 0.0 %, "
        f"unknown {unknown:.1f} %, not_infection 0.0 %"
    )


def test_air_around_the_patient_is_known_to_be_no_lung(tmp_path: Path, phantom_data: Path) -> None:
    recipe = replace(RECIPE, outside_hu=-1000.0)  # else it is no air any more
    _prepare(replace(LISTS, labelled=None, whole_chests=()), phantom_data, tmp_path, recipe)
    case = read_case(tmp_path / "elastix.npz")
    assert (case.hu_kji[:, 0] == -1000).all() and (case.codes_kji[:, 0] == Code.BACKGROUND).all()
    opened = case.hu_kji[case.codes_kji == Code.UNKNOWN]
    assert -430 < opened.max() < -400


def test_folder_without_labelled_cases_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"muller20: no cases with segmentation.nii.gz. Check --data"):
        _prepare(replace(LISTS, whole_chests=(), lungs=()), tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_phantom_is_the_same_each_time_and_the_next_has_another_grid(
    ill: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[tuple[Any, ...]] = []

    def fake(*, size_ijk: tuple[int, int, int], spacing_ijk_mm: tuple[float, float, float], **_: Any) -> Phantom:
        grids.append((*size_ijk, *spacing_ijk_mm))
        return ill

    monkeypatch.setattr("CovidSegLib.phantom.make_phantom", fake)
    monkeypatch.setattr(prepare_module, "preprocess", lambda *_, **__: SimpleNamespace(hu_kji=np.array([0.6, -1.4])))
    monkeypatch.setattr(prepare_module, "labels_on_network_grid", lambda *_, **__: np.zeros(2, np.uint8))
    for seed in (1, 1, *range(2, 40)):
        hu, _ = build_phantom(seed, findings={}, recipe=RECIPE)
        assert hu.dtype == np.int16 and hu.tolist() == [1, -1]
    assert grids[0] == grids[1] and len(set(grids)) == 39
    columns, rows, slices, pixel_mm, _, slice_mm = np.array(grids).T
    # A chest fits into it: 330 to 400 mm wide, less deep, 290 to 340 mm high (but for what rounding down takes).
    assert (columns * pixel_mm > 328).all() and (columns * pixel_mm <= 400).all()
    assert (slices * slice_mm > 284).all() and (slices * slice_mm <= 340).all()
    assert np.abs(rows - 0.85 * columns).max() <= 1 and set(slice_mm) == {1.5, 2.5, 4.0, 6.0}
    assert 1.0 <= pixel_mm.min() < 1.2 and 1.8 < pixel_mm.max() <= 2.0
