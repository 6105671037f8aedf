"""Impossible settings of the product are refused before anything is prepared or trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from CovidSegTraining.fit_checks import conditions
from CovidSegTraining.settings import Settings, SettingsError, read_settings


def test_product_recipe_and_defaults_are_possible() -> None:
    for settings in (read_settings(), Settings()):
        assert [key for key, fits, _ in conditions(settings) if not fits] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {labelled: {weight: -1}}", "data.labelled.weight must be 0 or above"),
        ("data: {whole_chests: [{path: a, diseased: true, weight: .nan}]}", "data.whole_chests[0].weight must be 0"),
        ("data: {lungs: [{path: a, side: left, weight: -1}]}", "data.lungs[0].weight must be 0 or above"),
        ("data: {phantoms: {count: -2}}", "data.phantoms.count must be 0 or above"),
        ("fit: {network: {architecture: vnet}}", "fit.network.architecture must be unet3d"),
        ("fit: {network: {width: 0}}", "fit.network.width must be at least 1"),
        ("fit: {network: {classes: 3}}", "fit.network.classes must be 4"),
        ("fit: {preprocessing: {spacing_ijk_mm: [0, 1, 1]}}", "fit.preprocessing.spacing_ijk_mm must be above 0"),
        ("fit: {preprocessing: {window_hu: [1, 0]}}", "fit.preprocessing.window_hu must be two numbers, the lower"),
        ("fit: {preprocessing: {kernel_voxels: 9}}", "fit.preprocessing.kernel_voxels must be 1 to 4"),
        ("fit: {augmentation: {blur_probability: 3}}", "fit.augmentation.blur_probability must be 0 to 1"),
        ("fit: {augmentation: {scale: [2, 1]}}", "fit.augmentation.scale must be two numbers above 0, in order"),
        ("fit: {lesions: {radius_mm: [9, 3]}}", "fit.lesions.radius_mm must be two numbers above 0, in order"),
        ("fit: {stages: []}", "fit.stages must be at least one"),
        ("fit: {stages: [{until: 0.5, patch_kji: [16, 32, 32], batch: 1}]}", "`until` rising to 1.0 in the last"),
        ("fit: {stages: [{until: 1, patch_kji: [17, 32, 32], batch: 1}]}", "fit.stages[0].patch_kji must be multiples"),
        ("fit: {stages: [{until: 1, patch_kji: [16, 16, 16], batch: 1}]}", "one voxel is left on the deepest level"),
        ("fit: {stages: [{until: 1, patch_kji: [16, 32, 32], batch: 0}]}", "fit.stages[0].batch must be at least 1"),
        ("fit: {steps: 0}", "fit.steps must be at least 1"),
        ("fit: {minutes: 0}", "fit.minutes must be above 0, or null"),
        ("fit: {learning_rate: .nan}", "fit.learning_rate must be above 0"),
        ("fit: {warm_up: 1}", "fit.warm_up must be from 0 to below 1"),
        ("fit: {ema_decay: 2}", "fit.ema_decay must be from 0 to below 1"),
        ("fit: {infection_share: 5}", "fit.infection_share must be 0 to 1"),
        ("fit: {seed: -1}", "fit.seed must be 0 or above"),
        ("fit: {device: cuda}", "fit.device must be left out: it is given as --device"),
    ],
)
def test_impossible_values_of_the_product_are_named_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        read_settings(path)
    assert message in str(raised.value) and str(raised.value).startswith(f"{path}: ")
