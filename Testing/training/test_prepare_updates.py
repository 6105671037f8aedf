"""What makes a prepared case out of date, and where its files, its labels and its unknown part come from."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.phantom import Phantom, make_phantom
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from helpers_training import SPACING_IJK_MM, write_nifti

from CovidSegTraining import prepare as prepare_module
from CovidSegTraining.cache import read_case
from CovidSegTraining.data import DataConfig, LabelledCases, LungMask, Phantoms
from CovidSegTraining.label_files import share_on_network_grid
from CovidSegTraining.prepare import PHANTOM_FINDINGS, build_labelled, prepare
from CovidSegTraining.product.label_codes import Code

RECIPE = PreprocessingRecipe(spacing_ijk_mm=SPACING_IJK_MM)
NOTHING = DataConfig(labelled=None, phantoms=Phantoms(count=0))
ONE_LUNG = replace(NOTHING, lungs=(LungMask("lungs/elastix", side="right", weight=0.4),))


def _prepare(config: DataConfig, data: Path, cache: Path) -> list[str]:
    lines: list[str] = []
    prepare(config, data_dir=data, cache_dir=cache, preprocessing=RECIPE, tell=lines.append)
    return lines


def _write_case(folder: Path, phantom: Phantom, *, labels: str = "segmentation") -> None:
    write_nifti(folder / "imaging.nii.gz", phantom.ct.hu_kji, geometry=phantom.ct.geometry)
    write_nifti(folder / f"{labels}.nii.gz", phantom.labelmap_kji, geometry=phantom.ct.geometry)


@pytest.mark.parametrize("weight", [0.1, 4.0])
def test_other_weight_is_taken_over_without_preparing_again(tmp_path: Path, phantom_data: Path, weight: float) -> None:
    _prepare(ONE_LUNG, phantom_data, tmp_path)
    before = read_case(tmp_path / "elastix.npz")
    lists = replace(ONE_LUNG, lungs=(replace(ONE_LUNG.lungs[0], weight=weight),))
    assert _prepare(lists, phantom_data, tmp_path) == ["elastix: already prepared"]
    after = read_case(tmp_path / "elastix.npz")
    assert (before.weight, after.weight, after.key) == (0.4, weight, before.key)
    np.testing.assert_array_equal(after.codes_kji, before.codes_kji)


def test_side_of_a_mask_that_is_corrected_changes_the_codes(tmp_path: Path, phantom_data: Path) -> None:
    _prepare(ONE_LUNG, phantom_data, tmp_path)
    (line,) = _prepare(replace(NOTHING, lungs=(LungMask("lungs/elastix", side="left"),)), phantom_data, tmp_path)
    codes = read_case(tmp_path / "elastix.npz").codes_kji
    assert "already" not in line and Code.LEFT_LUNG in codes and Code.RIGHT_LUNG not in codes


def test_cases_of_an_older_version_are_prepared_again(
    tmp_path: Path, phantom_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepare(ONE_LUNG, phantom_data, tmp_path)
    monkeypatch.setattr(prepare_module, "VERSION", prepare_module.VERSION + 1)
    (line,) = _prepare(ONE_LUNG, phantom_data, tmp_path)
    assert "already" not in line


def test_corrected_images_are_prepared_again(tmp_path: Path, healthy: Phantom) -> None:
    _write_case(tmp_path / "lung", healthy, labels="lungs")
    _write_case(tmp_path / "muller20" / "case", healthy)
    lists = replace(NOTHING, labelled=LabelledCases(), lungs=(LungMask("lung", side="right"),))
    _prepare(lists, tmp_path, tmp_path / "cache")
    names = {"lung": tmp_path / "lung", "case": tmp_path / "muller20" / "case"}
    for name, folder in names.items():
        path = tmp_path / "cache" / f"{name}.npz"
        before = read_case(path).hu_kji
        write_nifti(folder / "imaging.nii.gz", healthy.ct.hu_kji + np.int16(7), geometry=healthy.ct.geometry)
        again = {line.partition(":")[0]: line for line in _prepare(lists, tmp_path, tmp_path / "cache")}
        assert {key for key, line in again.items() if "already" not in line} == {name}
        aerated = before < -700
        assert np.median(read_case(path).hu_kji[aerated] - before[aerated]) == 7


@pytest.mark.parametrize("value", [2, 255])
def test_mask_of_any_value_marks_the_lung(tmp_path: Path, phantom_data: Path, healthy: Phantom, value: int) -> None:
    _write_case(tmp_path / "lungs" / "elastix", healthy)
    mask = np.where(healthy.lung_side_kji == 2, value, 0).astype(np.uint8)
    write_nifti(tmp_path / "lungs" / "elastix" / "lungs.nii.gz", mask, geometry=healthy.ct.geometry)
    found = []
    for data in (tmp_path, phantom_data):
        _prepare(ONE_LUNG, data, tmp_path / "cache")
        found.append(read_case(tmp_path / "cache" / "elastix.npz").codes_kji)
    np.testing.assert_array_equal(found[0], found[1])


def test_folder_of_labelled_cases_is_that_of_the_settings(tmp_path: Path, healthy: Phantom) -> None:
    _write_case(tmp_path / "own" / "mine", healthy)
    lists = replace(NOTHING, labelled=LabelledCases(folder="own", weak=("mine", "yours"), weak_weight=0.25))
    warning, line = _prepare(lists, tmp_path, tmp_path / "cache")
    assert warning == f"warning: data.labelled.weak names 'yours', which is not in {tmp_path / 'own'}"
    assert line.startswith("mine: ") and read_case(tmp_path / "cache" / "mine.npz").weight == 0.25


def test_phantom_is_prepared_whole(tmp_path: Path, ill: Phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("CovidSegLib.phantom.make_phantom", lambda **_: ill)
    _prepare(replace(NOTHING, phantoms=Phantoms(count=1, first_seed=70)), tmp_path, tmp_path / "cache")
    case = read_case(tmp_path / "cache" / "phantom_70.npz")
    shapes = [
        preprocess(ill.ct.hu_kji, geometry=ill.ct.geometry, recipe=RECIPE, crop_to_chest=crop).image_kji.shape
        for crop in (False, True)
    ]
    assert case.hu_kji.shape == case.codes_kji.shape == shapes[0] != shapes[1]


def test_findings_of_phantoms_are_what_phantoms_can_have() -> None:
    known = inspect.signature(make_phantom).parameters
    assert {name for findings in PHANTOM_FINDINGS for name in findings} <= set(known)
    # Every side and both extremes of infection are met in one turn.
    met = {(name, value) for findings in PHANTOM_FINDINGS for name, value in findings.items()}
    assert {("infection_percent", 0.0), ("consolidated_lung", "left"), ("consolidated_lung", "right")} <= met
    assert {("effusion", "left"), ("effusion", "right"), ("missing_lung", "left")} <= met


def test_voxels_that_mix_in_what_is_unknown_are_unknown(tmp_path: Path, ill: Phantom) -> None:
    _write_case(tmp_path / "case", ill)
    valid = np.zeros(ill.labelmap_kji.shape, np.uint8)
    valid[7:40] = 1
    write_nifti(tmp_path / "case" / "valid.nii.gz", valid, geometry=ill.ct.geometry)
    _, codes = build_labelled(tmp_path / "case", recipe=RECIPE, weak=False)
    seen = preprocess(ill.ct.hu_kji, geometry=ill.ct.geometry, recipe=RECIPE, crop_to_chest=False)
    share = share_on_network_grid(valid > 0, network_input=seen)
    mixed = (share > 0.01) & (share < 0.99)
    assert mixed.any() and (share[mixed] > 0.5).any()
    np.testing.assert_array_equal(codes == Code.UNKNOWN, share < 0.99)


def test_case_that_is_stored_in_another_direction_is_the_same(tmp_path: Path, ill: Phantom) -> None:
    grid = ill.ct.geometry
    valid = np.zeros(ill.labelmap_kji.shape, np.uint8)
    valid[10:30, 20:, 5:60] = 1
    arrays = {"imaging": ill.ct.hu_kji, "segmentation": ill.labelmap_kji, "valid": valid}
    last_lps = grid.ijk_to_lps @ [*(n - 1 for n in grid.size_ijk), 1]
    turned = replace(
        grid,
        origin_lps_mm=(float(last_lps[0]), float(last_lps[1]), float(last_lps[2])),
        direction_lps=tuple(-float(v) for v in grid.direction_lps),
    )
    found = []
    for name, geometry, step in (("plain", grid, 1), ("turned", turned, -1)):
        for file, array_kji in arrays.items():
            write_nifti(tmp_path / name / f"{file}.nii.gz", array_kji[::step, ::step, ::step], geometry=geometry)
        found.append(build_labelled(tmp_path / name, recipe=RECIPE, weak=False))
    (hu, codes), (turned_hu, turned_codes) = found
    assert np.abs(turned_hu - hu).max() <= 1
    np.testing.assert_array_equal(turned_codes == Code.UNKNOWN, codes == Code.UNKNOWN)
    assert (turned_codes == codes).mean() > 0.9999
