"""How self-training gets its prediction, and where on the cached grid it puts it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from CovidSegLib.bundle import Bundle, load_bundle
from CovidSegLib.errors import InputError
from CovidSegLib.labels import Label
from CovidSegLib.phantom import Phantom
from CovidSegLib.preprocess import PreprocessingRecipe, preprocess
from helpers_training import SPACING_IJK_MM, write_nifti

from CovidSegTraining.cache import CachedCase, pack_cases, read_case
from CovidSegTraining.data import DataConfig, Phantoms, WholeChest
from CovidSegTraining.prepare import prepare
from CovidSegTraining.product import pseudo
from CovidSegTraining.product.label_codes import Code
from CovidSegTraining.product.pseudo import SOFTER_BY_VOXELS_KJI, self_label, self_label_chests

RECIPE = PreprocessingRecipe(spacing_ijk_mm=SPACING_IJK_MM)
CHEST = WholeChest("ct/chest_a.nii.gz", diseased=True)
OPEN = (Code.UNKNOWN, Code.LEFT_OR_INFECTION, Code.RIGHT_OR_INFECTION)


@pytest.fixture
def bundle(threshold_bundle: Path) -> Bundle:
    return load_bundle(threshold_bundle)


def _prepared(data: Path, cache: Path) -> CachedCase:
    lists = DataConfig(labelled=None, whole_chests=(CHEST,), phantoms=Phantoms(count=0))
    prepare(lists, data_dir=data, cache_dir=cache, preprocessing=RECIPE, tell=lambda _: None)
    return read_case(cache / "chest_a.npz")


def _labelled(data: Path, cache: Path, bundle: Bundle, *, device: str = "cpu") -> tuple[CachedCase, str]:
    lines: list[str] = []
    self_label_chests([CHEST], data_dir=data, cache_dir=cache, bundle=bundle, device=device, tell=lines.append)
    (line,) = lines
    return read_case(cache / "chest_a.npz"), line


@pytest.mark.parametrize(("axis", "last_open"), [(0, 9), (1, 14), (2, 24)])
def test_distance_from_infection_is_in_mm_along_every_axis(axis: int, last_open: int) -> None:
    row = np.zeros((4, 40), dtype=np.float32)
    row[Label.BACKGROUND], row[Label.BACKGROUND, 4], row[Label.INFECTION, 4] = 1.0, 0.5, 0.5
    shape = [1, 1, 1]
    shape[axis] = 40
    found = self_label(
        np.full(shape, Code.UNKNOWN, dtype=np.uint8),
        probabilities=row.reshape(4, *shape),
        labels_kji=np.zeros(shape, dtype=np.uint8),
        spacing_kji_mm=(4.0, 2.0, 1.0),
    ).ravel()
    assert (found[: last_open + 1] == Code.UNKNOWN).all() and (found[last_open + 1 :] == Code.NOT_INFECTION).all()


def test_side_of_what_is_equally_left_and_right_is_left() -> None:
    probabilities = np.array([0.1, 0.2, 0.2, 0.5], dtype=np.float32).reshape(4, 1, 1, 1)
    codes, labels = np.full((2, 1, 1, 1), (Code.UNKNOWN,), dtype=np.uint8)
    labels[:] = Label.INFECTION
    found = self_label(codes, probabilities=probabilities, labels_kji=labels, spacing_kji_mm=(1.0, 1.0, 1.0))
    assert found.item() == Code.LEFT_OR_INFECTION


def test_what_the_network_placed_in_the_lungs_is_not_called_free_of_infection() -> None:
    row = np.zeros((4, 1, 1, 40), dtype=np.float32)
    row[Label.LEFT_LUNG], row[:, 0, 0, 0] = 1.0, (0.0, 0.1, 0.0, 0.9)
    codes, labels = (np.full((1, 1, 40), code, dtype=np.uint8) for code in (Code.UNKNOWN, Label.LEFT_LUNG))
    found = self_label(codes, probabilities=row, labels_kji=labels, spacing_kji_mm=(1.0, 1.0, 1.0))[0, 0]
    assert found[0] == Code.INFECTION and (found[1:] == Code.LEFT_LUNG).all()


def _by_intensity(image: np.ndarray, **_: Any) -> Any:
    """Return infection between -650 and -400 HU, lung below, background above; the window of `RECIPE` is seen."""
    probabilities = np.zeros((4, *image.shape), dtype=np.float32)
    low, high = (np.interp(hu, RECIPE.window_hu, (-1, 1)) for hu in (-650, -400))
    probabilities[Label.LEFT_LUNG][image < low] = 1.0
    probabilities[Label.INFECTION][(image >= low) & (image <= high)] = 1.0
    probabilities[Label.BACKGROUND][image > high] = 1.0
    return SimpleNamespace(probabilities=probabilities)


def test_prediction_lies_on_the_voxels_it_was_made_of(
    tmp_path: Path, ill: Phantom, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wide field of view: the box around the chest begins far from the first voxel.
    hu_kji = np.pad(ill.ct.hu_kji, ((0, 0), (20, 0), (16, 0)), constant_values=-1000)
    grid = replace(ill.ct.geometry, size_ijk=hu_kji.shape[::-1])
    write_nifti(tmp_path / "ct" / "chest_a.nii.gz", hu_kji, geometry=grid)
    before = _prepared(tmp_path, tmp_path)
    seen = preprocess(hu_kji, geometry=grid, recipe=RECIPE)
    assert all(axis.first_mm > 20.0 for axis in seen.axes[1:])
    monkeypatch.setattr(pseudo, "predict", _by_intensity)
    monkeypatch.setattr(pseudo, "SOFTER_BY_VOXELS_KJI", ())
    monkeypatch.setattr(
        pseudo, "consistent_labels", lambda probabilities, **_: probabilities.argmax(axis=0).astype(np.uint8)
    )
    after, line = _labelled(tmp_path, tmp_path, bundle)
    hu = before.hu_kji[(after.codes_kji == Code.INFECTION) & np.isin(before.codes_kji, OPEN)]
    assert hu.size > 200 and hu.min() >= -655 and hu.max() <= -395
    # Volumes are told in ml of the cached grid's voxels.
    infection_ml = (after.codes_kji == Code.INFECTION).sum() * np.prod(SPACING_IJK_MM) / 1000
    found = re.search(r"unknown (\d+) -> (\d+) ml", line)
    assert f" infection 0 -> {infection_ml:.0f} ml" in line and found is not None
    assert int(found[1]) > int(found[2])


def test_second_bundle_is_described_against_the_labels_without_any(
    tmp_path: Path, phantom_data: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepared(phantom_data, tmp_path)
    monkeypatch.setattr(pseudo, "predict", _by_intensity)
    monkeypatch.setattr(pseudo, "SOFTER_BY_VOXELS_KJI", ())
    lines = [_labelled(phantom_data, tmp_path, bundle)[1] for _ in range(2)]
    assert lines[0] == lines[1]


def test_network_answers_softer_copies_too_as_the_product_asks_it(
    tmp_path: Path, phantom_data: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[np.ndarray, dict[str, Any]]] = []
    used: dict[str, Any] = {}

    def predict(image: np.ndarray, **options: Any) -> Any:
        asked.append((image, options))
        answer = np.full((4, *image.shape), 0.0, dtype=np.float32)
        answer[Label.BACKGROUND], answer[Label.INFECTION] = 1.0 - len(asked) / 10, len(asked) / 10
        return SimpleNamespace(probabilities=answer)

    def consistent(probabilities: np.ndarray, **options: Any) -> np.ndarray:
        used.update(options, probabilities=probabilities.copy())
        return np.zeros(probabilities.shape[1:], dtype=np.uint8)

    def completed(codes_kji: np.ndarray, **options: Any) -> np.ndarray:
        used.update(options)
        return codes_kji

    _prepared(phantom_data, tmp_path)
    for name, stand_in in (("predict", predict), ("consistent_labels", consistent), ("self_label", completed)):
        monkeypatch.setattr(pseudo, name, stand_in)
    marked = SimpleNamespace(
        name=bundle.name,
        preprocessing=bundle.preprocessing,
        sha256="a" * 64,
        network=object(),
        integers=object(),
        postprocessing=object(),
    )
    stand_in_bundle: Any = marked
    after, _ = _labelled(phantom_data, tmp_path, stand_in_bundle, device="cuda:1")
    assert len(asked) == 1 + len(SOFTER_BY_VOXELS_KJI)
    roughness = [np.abs(np.diff(image, axis=0)).mean() for image, _ in asked]
    assert roughness == sorted(roughness, reverse=True) and len(set(roughness)) == 4, "the sharp input first"
    for _, options in asked:
        assert (options["mode"], options["device"]) == ("accurate", "cuda:1")
        assert options["network"] is marked.network and options["integers"] is marked.integers
    np.testing.assert_allclose(used["probabilities"][Label.INFECTION], 0.25, atol=1e-6)  # the mean of 0.1 to 0.4
    assert used["recipe"] is marked.postprocessing and used["spacing_kji_mm"] == SPACING_IJK_MM[::-1]
    assert after.labelled_by == marked.sha256


def test_ct_with_an_offset_is_answered_in_hu(
    tmp_path: Path, ill: Phantom, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo, "predict", _by_intensity)
    found = []
    for name, values in (("plain", ill.ct.hu_kji), ("offset", ill.ct.hu_kji.astype(np.int16) + np.int16(1024))):
        write_nifti(tmp_path / name / "ct" / "chest_a.nii.gz", values, geometry=ill.ct.geometry)
        _prepared(tmp_path / name, tmp_path / name)
        found.append(_labelled(tmp_path / name, tmp_path / name, bundle)[0].codes_kji)
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] == Code.INFECTION).any()


def test_network_sees_the_box_around_the_chest_alone(
    tmp_path: Path, phantom_data: Path, ill: Phantom, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _prepared(phantom_data, tmp_path)
    shapes = set()

    def predict(image: np.ndarray, **_: Any) -> Any:
        shapes.add(image.shape)
        return _by_intensity(image)

    monkeypatch.setattr(pseudo, "predict", predict)
    after, _ = _labelled(phantom_data, tmp_path, bundle)
    box = preprocess(ill.ct.hu_kji, geometry=ill.ct.geometry, recipe=RECIPE).image_kji.shape
    assert shapes == {box} and np.prod(box) < before.codes_kji.size
    # Outside the box everything stays.
    rows = np.flatnonzero((after.codes_kji != before.codes_kji).any(axis=(0, 2)))
    assert rows.max() - rows.min() < box[1]


def test_chest_that_is_not_prepared_is_named(tmp_path: Path, phantom_data: Path, bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"chest_a\.npz: not prepared; run 'covidseg-train prepare' first"):
        self_label_chests([CHEST], data_dir=phantom_data, cache_dir=tmp_path, bundle=bundle, tell=print)


def test_packed_chest_that_was_completed_before_is_refused(
    tmp_path: Path, phantom_data: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo, "predict", _by_intensity)
    _prepared(phantom_data, tmp_path / "cache")
    _labelled(phantom_data, tmp_path / "cache", bundle)
    pack_cases(tmp_path / "cache", tmp_path / "packed", tell=lambda _: None)
    with pytest.raises(InputError, match=r"chest_a\.npz: packed, .* give the --cache that 'covidseg-train prepare'"):
        _labelled(phantom_data, tmp_path / "packed", bundle)


def test_chest_of_another_grid_is_refused_as_it_was(
    tmp_path: Path, phantom_data: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _prepared(phantom_data, tmp_path)
    other = replace(bundle, preprocessing=replace(RECIPE, spacing_ijk_mm=(5.0, 4.0, 6.0)))
    monkeypatch.setattr(pseudo, "predict", _by_intensity)
    with pytest.raises(InputError, match=rf"chest_a.*prepared on another grid than bundle '{bundle.name}' uses"):
        self_label_chests([CHEST], data_dir=phantom_data, cache_dir=tmp_path, bundle=other, tell=print)
    after = read_case(tmp_path / "chest_a.npz")
    assert after.partial_kji is None and after.labelled_by == ""
    np.testing.assert_array_equal(after.codes_kji, before.codes_kji)
