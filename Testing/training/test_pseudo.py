from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import InputError
from CovidSegLib.labels import Label
from CovidSegLib.preprocess import PreprocessingRecipe
from helpers_training import SPACING_IJK_MM

from CovidSegTraining.cache import read_case
from CovidSegTraining.data import DataConfig, Phantoms, WholeChest
from CovidSegTraining.prepare import prepare
from CovidSegTraining.product.label_codes import Code
from CovidSegTraining.product.pseudo import describe_change, self_label, self_label_chests

LIST = DataConfig(
    labelled=None, whole_chests=(WholeChest("ct/chest_a.nii.gz", diseased=True),), phantoms=Phantoms(count=0)
)


def _answer(code: int, probabilities: tuple[float, float, float, float]) -> Code:
    """Return what becomes of one voxel's code."""
    p = np.array(probabilities, dtype=np.float32).reshape(4, 1, 1, 1)
    labels = p.argmax(axis=0).astype(np.uint8)
    codes = np.full((1, 1, 1), code, dtype=np.uint8)
    return Code(int(self_label(codes, probabilities=p, labels_kji=labels, spacing_kji_mm=(1.0, 1.0, 1.0))[0, 0, 0]))


@pytest.mark.parametrize("code", [Code.BACKGROUND, Code.LEFT_LUNG, Code.RIGHT_LUNG, Code.INFECTION])
def test_what_is_known_stays_whatever_the_network_says(code: Code) -> None:
    for probabilities in ((0.97, 0.01, 0.01, 0.01), (0.01, 0.97, 0.01, 0.01), (0.01, 0.01, 0.01, 0.97)):
        assert _answer(code, probabilities) == code


def test_sure_infection_and_sure_health_are_named() -> None:
    assert _answer(Code.LEFT_OR_INFECTION, (0.0, 0.2, 0.0, 0.8)) == Code.INFECTION
    assert _answer(Code.LEFT_OR_INFECTION, (0.0, 0.95, 0.0, 0.05)) == Code.LEFT_LUNG
    assert _answer(Code.RIGHT_OR_INFECTION, (0.0, 0.0, 0.95, 0.05)) == Code.RIGHT_LUNG
    assert _answer(Code.LEFT_OR_INFECTION, (0.0, 0.49, 0.0, 0.51)) == Code.INFECTION
    assert _answer(Code.RIGHT_OR_INFECTION, (0.0, 0.0, 0.61, 0.39)) == Code.RIGHT_LUNG


def test_a_known_side_stays_even_if_the_network_sees_the_other() -> None:
    assert _answer(Code.LEFT_OR_INFECTION, (0.0, 0.1, 0.85, 0.05)) == Code.LEFT_LUNG
    assert _answer(Code.LEFT_OR_INFECTION, (0.0, 0.1, 0.4, 0.5)) == Code.LEFT_OR_INFECTION


def test_doubt_about_infection_stays_open_with_its_side() -> None:
    assert _answer(Code.RIGHT_OR_INFECTION, (0.0, 0.0, 0.5, 0.5)) == Code.RIGHT_OR_INFECTION
    assert _answer(Code.UNKNOWN, (0.0, 0.5, 0.1, 0.4)) == Code.LEFT_OR_INFECTION
    assert _answer(Code.UNKNOWN, (0.0, 0.1, 0.4, 0.5)) == Code.RIGHT_OR_INFECTION


def test_unknown_in_the_lungs_takes_class_and_side_from_the_network() -> None:
    assert _answer(Code.UNKNOWN, (0.1, 0.1, 0.0, 0.8)) == Code.INFECTION
    assert _answer(Code.UNKNOWN, (0.15, 0.8, 0.0, 0.05)) == Code.LEFT_LUNG
    assert _answer(Code.UNKNOWN, (0.15, 0.0, 0.8, 0.05)) == Code.RIGHT_LUNG


def test_what_the_network_leaves_out_of_the_lungs_stays_open() -> None:
    # It may be consolidated lung that the network misses.
    assert _answer(Code.UNKNOWN, (0.99, 0.01, 0.0, 0.0)) == Code.UNKNOWN
    assert _answer(Code.LEFT_OR_INFECTION, (0.95, 0.05, 0.0, 0.0)) == Code.LEFT_OR_INFECTION


@pytest.mark.parametrize(("infected", "counts"), [(0.3, True), (0.29, False)])
def test_left_out_far_from_all_infection_holds_none(infected: float, *, counts: bool) -> None:
    probabilities = np.zeros((4, 1, 1, 40), dtype=np.float32)
    probabilities[Label.BACKGROUND] = 1.0
    probabilities[:, 0, 0, 4] = (1.0 - infected, 0.0, 0.0, infected)
    codes = np.full((1, 1, 40), Code.UNKNOWN, dtype=np.uint8)
    codes[0, 0, 30] = Code.BACKGROUND
    labels = np.zeros((1, 1, 40), dtype=np.uint8)
    found = self_label(codes, probabilities=probabilities, labels_kji=labels, spacing_kji_mm=(3.0, 1.0, 1.0))[0, 0]
    if not counts:
        np.testing.assert_array_equal(found, codes[0, 0])
        return
    assert (found[:25] == Code.UNKNOWN).all()  # up to 20 mm from what may be infected
    assert (np.delete(found[25:], 5) == Code.NOT_INFECTION).all() and found[30] == Code.BACKGROUND


def test_input_is_not_modified() -> None:
    codes = np.full((2, 2, 2), Code.UNKNOWN, dtype=np.uint8)
    probabilities = np.zeros((4, 2, 2, 2), dtype=np.float32)
    probabilities[Label.INFECTION] = 1.0
    labels = np.full((2, 2, 2), 3, dtype=np.uint8)
    self_label(codes, probabilities=probabilities, labels_kji=labels, spacing_kji_mm=(1.0, 1.0, 1.0))
    assert (codes == Code.UNKNOWN).all() and (probabilities[Label.INFECTION] == 1).all()


@pytest.fixture
def cache(tmp_path: Path, phantom_data: Path) -> Path:
    prepare(
        LIST,
        data_dir=phantom_data,
        cache_dir=tmp_path,
        preprocessing=PreprocessingRecipe(spacing_ijk_mm=SPACING_IJK_MM),
        tell=lambda _: None,
    )
    return tmp_path


def test_whole_chest_is_completed_in_the_cache(cache: Path, phantom_data: Path, threshold_bundle: Path) -> None:
    before = read_case(cache / "chest_a.npz")
    lines: list[str] = []
    bundle = load_bundle(threshold_bundle)
    self_label_chests(LIST.whole_chests, data_dir=phantom_data, cache_dir=cache, bundle=bundle, tell=lines.append)
    after = read_case(cache / "chest_a.npz")
    np.testing.assert_array_equal(after.hu_kji, before.hu_kji)
    np.testing.assert_array_equal(after.partial_kji, before.codes_kji)
    assert (after.weight, after.key, after.labelled_by) == (before.weight, before.key, bundle.sha256)
    known = before.codes_kji <= Code.INFECTION
    np.testing.assert_array_equal(after.codes_kji[known], before.codes_kji[known])
    # The bundle calls -650 to -400 HU infection: open voxels in that range now say so.
    changed = before.codes_kji != after.codes_kji
    assert changed.sum() > 500
    infected = after.codes_kji == Code.INFECTION
    assert infected.sum() > 200
    assert np.median(after.hu_kji[infected]) == pytest.approx(-530, abs=80)
    assert lines[0].startswith("chest_a: ") and "infection 0 ->" in lines[0]


def test_second_time_starts_from_the_first_labels_again(
    cache: Path, phantom_data: Path, threshold_bundle: Path
) -> None:
    codes = []
    for _ in range(2):
        self_label_chests(
            LIST.whole_chests,
            data_dir=phantom_data,
            cache_dir=cache,
            bundle=load_bundle(threshold_bundle),
            tell=lambda _: None,
        )
        codes.append(read_case(cache / "chest_a.npz"))
    np.testing.assert_array_equal(codes[0].codes_kji, codes[1].codes_kji)
    np.testing.assert_array_equal(codes[0].partial_kji, codes[1].partial_kji)


def test_measured_only_chest_is_refused(cache: Path, phantom_data: Path, threshold_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"normal001.*measured only"):
        self_label_chests(
            [WholeChest("ct/normal001.nii.gz", diseased=True)],
            data_dir=phantom_data,
            cache_dir=cache,
            bundle=load_bundle(threshold_bundle),
            tell=print,
        )


def test_healthy_chest_is_complete_and_left_as_it_is(tmp_path: Path, threshold_bundle: Path) -> None:
    lines: list[str] = []
    self_label_chests(
        [WholeChest("ct/chest_a.nii.gz", diseased=False)],
        data_dir=tmp_path / "not looked at",
        cache_dir=tmp_path,
        bundle=load_bundle(threshold_bundle),
        tell=lines.append,
    )
    assert lines == [] and list(tmp_path.iterdir()) == []


def test_change_is_described_in_ml_of_every_code_but_background() -> None:
    before = np.array([[Code.UNKNOWN] * 40, [Code.LEFT_LUNG] * 40], dtype=np.uint8)
    after = before.copy()
    after[0, :10], after[0, 10:20] = Code.INFECTION, Code.BACKGROUND
    assert describe_change(before, after, voxel_ml=0.5) == (
        "left_lung 20 -> 20 ml, right_lung 0 -> 0 ml, infection 0 -> 5 ml, left_or_infection 0 -> 0 ml, "
        "right_or_infection 0 -> 0 ml, unknown 20 -> 10 ml, not_infection 0 -> 0 ml"
    )


def test_cache_of_another_grid_is_refused(tmp_path: Path, phantom_data: Path, threshold_bundle: Path) -> None:
    recipe = PreprocessingRecipe(spacing_ijk_mm=(5.0, 5.0, 6.0))
    prepare(LIST, data_dir=phantom_data, cache_dir=tmp_path, preprocessing=recipe, tell=lambda _: None)
    with pytest.raises(InputError, match=r"chest_a.*another grid"):
        self_label_chests(
            LIST.whole_chests,
            data_dir=phantom_data,
            cache_dir=tmp_path,
            bundle=load_bundle(threshold_bundle),
            tell=print,
        )
