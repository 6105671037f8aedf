from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from CovidSegLib.network import NetworkConfig

from CovidSegTraining.product.fit_config import FitConfig, Stage
from CovidSegTraining.product.recipe import PRODUCT, read_settings
from CovidSegTraining.settings import SettingsError


def _read(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return read_settings(path)


def test_product_recipe_is_read() -> None:
    settings = read_settings()
    assert settings.fit.network == NetworkConfig(width=16)
    assert settings.fit.stages == (Stage(0.28, (32, 96, 96), 2), Stage(1.0, (48, 112, 144), 1))
    assert settings.fit.augmentation == FitConfig().augmentation
    assert settings.fit.lesions == FitConfig().lesions
    assert [chest.diseased for chest in settings.data.whole_chests] == [True, True, True, False]
    assert settings.data.labelled is not None and settings.data.labelled.weak == ("radiopaedia_14_85914_0",)


@pytest.mark.parametrize(("recipe", "width"), [("teacher.yaml", 32), ("student.yaml", 16)])
def test_recipes_for_a_gpu_are_the_products_in_all_that_the_network_sees(recipe: str, width: int) -> None:
    product = read_settings().fit
    settings = read_settings(PRODUCT.with_name(recipe)).fit
    assert settings.network == NetworkConfig(width=width)
    changed = ("network", "stages", "learning_rate", "consistency_from")
    assert replace(settings, **{name: getattr(product, name) for name in changed}) == product


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    settings = _read(tmp_path, "fit: {learning_rate: 1}")
    assert settings.fit == FitConfig(learning_rate=1.0)
    assert isinstance(settings.fit.learning_rate, float)
    assert _read(tmp_path, "").fit == FitConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fitt: {}", "unknown key 'fitt'"),
        ("fit: {network: {filters: 3}}", "unknown key 'fit.network.filters'; known here are architecture, width"),
        ("fit: {steps: many}", "fit.steps must be a whole number, not 'many'"),
        ("fit: {steps: 1.5}", "fit.steps must be a whole number, not 1.5"),
        ("fit: {steps: true}", "fit.steps must be a whole number, not True"),
        ("fit: {bfloat16: 1}", "fit.bfloat16 must be true or false, not 1"),
        ("fit: {device: 3}", "fit.device must be text, not 3"),
        ("fit: {augmentation: {scale: [1, 2, 3]}}", "fit.augmentation.scale must have 2 values, not 3"),
        ("fit: {stages: [{until: 1, patch_kji: [1, 2, x], batch: 1}]}", "fit.stages[0].patch_kji[2] must be a whole"),
        ("fit: {stages: [{until: 1, batch: 1}]}", "key 'fit.stages[0].patch_kji' is missing"),
        ("fit: {stages: 3}", "fit.stages must be a list"),
        ("fit: 3", "fit must be a mapping"),
        ("data: {lungs: [{path: a, side: up}]}", "data.lungs[0].side must be one of left, right, not 'up'"),
        ("fit: {minutes: soon}", "fit.minutes must be a number"),
        ("a: [", "no valid YAML"),
        ("fit:\n  steps: 3\n  seed: 1\n  steps: 4", "key 'steps' is there twice"),
        ("fit: {learning_rate: 1e-3}", "fit.learning_rate must be a number, not '1e-3' (text to YAML: write powers of"),
        (f"fit: {{learning_rate: 1{400 * '0'}}}", "fit.learning_rate is too large a number"),
        (f"fit: {{steps: 1{5000 * '0'}}}", "no valid YAML"),
        ("fit: {steps: 2026-13-01}", "no valid YAML"),
    ],
)
def test_mistakes_are_named_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        _read(tmp_path, text)
    assert message in str(raised.value) and "settings.yaml" in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.yaml: cannot be read"):
        read_settings(tmp_path / "nowhere.yaml")
