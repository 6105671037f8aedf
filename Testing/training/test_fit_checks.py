"""Impossible settings of the product are refused before anything is prepared or trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from CovidSegTraining.product.fit_checks import conditions
from CovidSegTraining.product.recipe import Settings, read_settings
from CovidSegTraining.settings import SettingsError


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
        ("fit: {network: {width: 0}}", "fit.network.width must be 1 to 4096"),
        ("fit: {network: {width: 4097}}", "fit.network.width must be 1 to 4096"),
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
        ("data: {phantoms: {first_seed: -1}}", "data.phantoms.first_seed must be 0 or above"),
        (
            "fit: {preprocessing: {spacing_ijk_mm: [100.5, 1, 1]}}",
            "fit.preprocessing.spacing_ijk_mm must be above 0 and at most",
        ),
        ("fit: {preprocessing: {window_hu: [1, 1]}}", "fit.preprocessing.window_hu must be two numbers, the lower"),
        ("fit: {preprocessing: {outside_hu: -1000000}}", "fit.preprocessing.outside_hu must be a value in HU"),
        ("fit: {preprocessing: {kernel_voxels: 0.9}}", "fit.preprocessing.kernel_voxels must be 1 to 4"),
        ("fit: {augmentation: {gain: [0, 1]}}", "fit.augmentation.gain must be two numbers above 0, in order"),
        ("fit: {augmentation: {thickness: [0.9, 2]}}", "fit.augmentation.thickness must be two numbers from 1 on"),
        ("fit: {augmentation: {rotation_deg: 181}}", "fit.augmentation.rotation_deg must be 0 to 180"),
        ("fit: {augmentation: {elastic_mm: -1}}", "fit.augmentation.elastic_mm must be 0 or above"),
        ("fit: {augmentation: {offset_hu: -1}}", "fit.augmentation.offset_hu must be 0 or above"),
        ("fit: {lesions: {dense_share: 2}}", "fit.lesions.dense_share must be 0 to 1"),
        ("fit: {lesions: {most: 0}}", "fit.lesions.most must be at least 1"),
        ("fit: {lesions: {radius_mm: [0, 3]}}", "fit.lesions.radius_mm must be two numbers above 0, in order"),
        ("fit: {minutes: .inf}", "fit.minutes must be above 0, or null"),
        ("fit: {learning_rate: 0}", "fit.learning_rate must be above 0 and at most 10"),
        ("fit: {learning_rate: 10.1}", "fit.learning_rate must be above 0 and at most 10"),
        ("fit: {weight_decay: 1.1}", "fit.weight_decay must be 0 to 1"),
        ("fit: {ema_decay: 1}", "fit.ema_decay must be from 0 to below 1"),
        ("fit: {freeze_norm_from: 1.1}", "fit.freeze_norm_from must be 0 to 1"),
        ("fit: {air_below_hu: 1000000}", "fit.air_below_hu must be a value in HU"),
        ("fit: {save_every_s: -1}", "fit.save_every_s must be 0 or above"),
        ("fit: {seed: 9223372036854775808}", "fit.seed must be 0 or above, and below 2^63"),
        ("fit: {device: cuda}", "fit.device must be left out: it is given as --device"),
    ],
)
def test_impossible_values_of_the_product_are_named_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        read_settings(path)
    assert message in str(raised.value) and str(raised.value).startswith(f"{path}: ")


LOWEST = """
data: {labelled: {weight: 0}, phantoms: {count: 0, first_seed: 0}}
fit:
  network: {width: 1}
  preprocessing: {kernel_voxels: 1}
  augmentation: {rotation_deg: 0, thickness: [1, 1], scale: [1, 1], noise_hu: 0, blur_probability: 0}
  lesions: {probability: 0, most: 1, radius_mm: [3, 3]}
  stages: [{until: 1, patch_kji: [16, 16, 32], batch: 1}]
  steps: 1
  weight_decay: 0
  warm_up: 0
  ema_decay: 0
  save_every_s: 0
  seed: 0
"""
HIGHEST = """
fit:
  preprocessing: {spacing_ijk_mm: [100, 100, 100], kernel_voxels: 4}
  augmentation: {rotation_deg: 180, blur_probability: 1}
  lesions: {probability: 1, dense_share: 1}
  learning_rate: 10
  weight_decay: 1
  infection_share: 1
  seed: 9223372036854775807
"""


@pytest.mark.parametrize("text", [LOWEST, HIGHEST], ids=["lowest", "highest"])
def test_values_at_the_limits_are_possible(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    read_settings(path)


def test_settings_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes("# größer\nfit: {seed: 1}".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"settings\.yaml: no valid YAML"):
        read_settings(path)
