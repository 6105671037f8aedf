"""Prepared cases hold what the steps behind them give, with the entry's own settings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import InputError
from CovidSegLib.phantom import Phantom
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from helpers_training import SPACING_IJK_MM, write_nifti

from CovidSegTraining import prepare as prepare_module
from CovidSegTraining.benchmark import BenchmarkOptions, run_benchmark
from CovidSegTraining.cache import CachedCase, preparation_of, read_case
from CovidSegTraining.data import DataConfig, LabelledCases, LungMask, Phantoms, WholeChest
from CovidSegTraining.prepare import prepare
from CovidSegTraining.product.label_codes import Code
from CovidSegTraining.product.partial_labels import whole_chest_codes
from CovidSegTraining.quality.lung_voxels import lung_voxels

RECIPE = PreprocessingRecipe(spacing_ijk_mm=SPACING_IJK_MM)


def _prepared(data: Path, cache: Path, **lists: object) -> tuple[list[str], list[CachedCase]]:
    """Prepare these lists; return the lines told and the cases."""
    lines: list[str] = []
    config = replace(DataConfig(labelled=None, phantoms=Phantoms(count=0)), **lists)
    prepare(config, data_dir=data, cache_dir=cache, preprocessing=RECIPE, tell=lines.append)
    return lines, [read_case(path) for path in sorted(cache.glob("*.npz"))]


@pytest.mark.parametrize("diseased", [True, False])
def test_whole_chest_gets_the_codes_of_its_entry(
    tmp_path: Path, phantom_data: Path, ill: Phantom, *, diseased: bool
) -> None:
    chest = WholeChest("ct/chest_a.nii.gz", diseased=diseased, weight=1.5)
    _, (case,) = _prepared(phantom_data, tmp_path, whole_chests=(chest,))
    seen = preprocess(ill.ct.hu_kji, geometry=ill.ct.geometry, recipe=RECIPE, crop_to_chest=False)
    codes = whole_chest_codes(
        case.hu_kji, inside_kji=seen.inside_kji, spacing_kji_mm=seen.spacing_kji_mm, diseased=diseased
    )
    assert case.hu_kji.shape == seen.image_kji.shape and case.weight == 1.5
    assert case.preprocessing == preparation_of(RECIPE)
    np.testing.assert_array_equal(case.codes_kji, codes)
    assert (case.codes_kji == Code.NOT_INFECTION).any() != diseased


def test_ct_with_an_offset_is_prepared_in_hu(tmp_path: Path, ill: Phantom) -> None:
    chests = []
    for name, values in (("plain", ill.ct.hu_kji), ("offset", ill.ct.hu_kji.astype(np.int16) + np.int16(1024))):
        write_nifti(tmp_path / f"{name}.nii.gz", values, geometry=ill.ct.geometry)
        chests.append(WholeChest(f"{name}.nii.gz", diseased=True))
    _, (offset, plain) = _prepared(tmp_path, tmp_path / "cache", whole_chests=tuple(chests))
    np.testing.assert_array_equal(offset.hu_kji, plain.hu_kji)


def test_corrected_lung_mask_or_labels_are_prepared_again(tmp_path: Path, ill: Phantom) -> None:
    for folder in ("lung", "muller20/case"):
        write_nifti(tmp_path / folder / "imaging.nii.gz", ill.ct.hu_kji, geometry=ill.ct.geometry)
    files = [tmp_path / "lung" / "lungs.nii.gz", tmp_path / "muller20" / "case" / "segmentation.nii.gz"]
    lists = {"lungs": (LungMask("lung", side="right"),), "labelled": DataConfig().labelled}
    infection_kji = ill.labelmap_kji * (ill.labelmap_kji == 3)
    for labels_kji, again in ((ill.labelmap_kji, True), (ill.labelmap_kji, False), (infection_kji, True)):
        for file in files:
            write_nifti(file, labels_kji, geometry=ill.ct.geometry)
        lines, cases = _prepared(tmp_path, tmp_path / "cache", **lists)
        assert ["already" not in line for line in lines] == [again, again]
    assert not (cases[0].codes_kji == Code.RIGHT_LUNG).any()


def test_phantom_that_gets_other_findings_is_made_again(
    tmp_path: Path, ill: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("CovidSegLib.phantom.make_phantom", lambda **_: ill)
    monkeypatch.setattr(prepare_module, "PHANTOM_FINDINGS", ({}, {"infection_percent": 0.0}))
    for first_seed, names in ((70, ["phantom_70", "phantom_71"]), (71, ["phantom_71", "phantom_72", "phantom_70"])):
        lines, _ = _prepared(tmp_path, tmp_path / "cache", phantoms=Phantoms(count=2, first_seed=first_seed))
        assert [line.partition(":")[0] for line in lines] == names
        assert not any("already prepared" in line for line in lines)


def test_label_that_nobody_knows_is_refused_wherever_a_segmentation_is_read(
    tmp_path: Path, ill: Phantom, threshold_bundle: Path
) -> None:
    labels = ill.labelmap_kji.copy()
    labels[labels == 3] = 7  # learnt, it would be background; in a POI, lung
    for name in ("coronacases_001", "coronacases_003"):
        write_nifti(tmp_path / "muller20" / name / "imaging.nii.gz", ill.ct.hu_kji, geometry=ill.ct.geometry)
        write_nifti(tmp_path / "muller20" / name / "segmentation.nii.gz", labels, geometry=ill.ct.geometry)
    message = r"segmentation\.nii\.gz: label 7 found; known are 0 to 3\. Correct the labels\."
    with pytest.raises(InputError, match="coronacases_001." + message):
        _prepared(tmp_path, tmp_path / "cache", labelled=LabelledCases())
    bundle = load_bundle(threshold_bundle)
    with pytest.raises(InputError, match="coronacases_001." + message):
        lung_voxels(tmp_path / "muller20" / "coronacases_001", bundle=bundle, mode="fast", device="cpu")
    options = BenchmarkOptions(mode="fast", device="cpu")
    (row,) = run_benchmark(tmp_path, bundle=bundle, options=options, tell=str)["cases"]
    assert re.search(message, row["error"] or "")


@pytest.mark.parametrize(
    ("path", "lists"),
    [
        ("muller20/coronacases_001/segmentation.nii.gz", {"labelled": LabelledCases("muller20")}),
        ("lungs/right/lungs.nii.gz", {"lungs": (LungMask("lungs/right", side="right"),)}),
    ],
)
def test_labels_that_were_not_drawn_are_refused_and_not_learnt_as_no_lung(
    tmp_path: Path, ill: Phantom, path: str, lists: dict[str, object]
) -> None:
    labels = tmp_path / path
    write_nifti(labels.with_name("imaging.nii.gz"), ill.ct.hu_kji, geometry=ill.ct.geometry)
    write_nifti(labels, np.zeros_like(ill.labelmap_kji), geometry=ill.ct.geometry)
    with pytest.raises(InputError, match=rf"{re.escape(str(labels))}: labels no lung: every voxel is 0"):
        _prepared(tmp_path, tmp_path / "cache", **lists)
    assert not list((tmp_path / "cache").glob("*.npz"))
