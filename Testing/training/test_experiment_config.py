from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_experiment import paper_values, tiny_recipe, tiny_values

from CovidSegTraining.experiment.config import PAPER, experiment_from, is_experiment, read_experiment
from CovidSegTraining.product.recipe import PRODUCT
from CovidSegTraining.settings import SettingsError

SEGNET = PAPER.with_name("covid_segnet.yaml")


def test_paper_recipe_is_the_papers() -> None:
    recipe = read_experiment()
    pre, augmentation, training = recipe.preprocessing, recipe.augmentation, recipe.training
    assert (pre.clip_hu, pre.grey_levels, pre.spacing_ijk_mm) == ((-1250.0, 250.0), 255, (1.58, 1.58, 2.70))
    assert (pre.orient, pre.interpolation, pre.label_threshold, pre.z_score) == (False, "cubic", 0.5, True)
    assert augmentation is not None
    assert augmentation.mirror.probability_ijk == (0.5, 0.5, 0.5) and not augmentation.mirror.swaps_sides
    for name in ("contrast", "brightness", "gamma", "noise", "elastic", "rotation", "scale"):
        assert getattr(augmentation, name).probability == 0.15
    assert (augmentation.contrast.below, augmentation.contrast.above) == ((0.3, 1.0), (1.0, 3.0))
    assert (augmentation.gamma.below, augmentation.gamma.above) == ((0.7, 1.0), (1.0, 1.5))
    assert (augmentation.scale.below, augmentation.scale.above) == ((0.85, 1.0), (1.0, 1.25))
    assert (augmentation.brightness.factor, augmentation.noise.std) == ((0.5, 2.0), (0.0, 0.05))
    assert (augmentation.elastic.alpha, augmentation.elastic.sigma) == ((0.0, 900.0), (9.0, 13.0))
    assert augmentation.rotation.degrees_ijk == (15.0, 15.0, 15.0) and augmentation.interpolation == "cubic"
    assert (recipe.patches.size_kji, recipe.patches.batch) == ((80, 160, 160), 2)
    assert (recipe.network.name, recipe.network.classes, recipe.network.options) == ("unet3d", 4, {"width": 32})
    loss, adam = recipe.loss, recipe.optimizer
    assert (loss.overlap, loss.overlap_weight, loss.crossentropy_weight) == ("tversky_sum", 1.0, 1.0)
    assert (loss.false_negatives, loss.false_positives, loss.smooth) == (0.5, 0.5, 1e-6)
    assert (adam.learning_rate, adam.betas, adam.epsilon, adam.decay) == (1e-3, (0.9, 0.999), 1e-7, 0.0)
    assert (training.epochs, training.batches_per_epoch, training.early_stopping_patience) == (1000, 150, 100)
    plateau = training.plateau
    assert plateau is not None
    assert (plateau.factor, plateau.patience, plateau.min_delta) == (0.1, 15, 1e-4)
    assert (plateau.cooldown, plateau.minimum) == (1, 1e-5)
    assert (training.checkpoint_rule, training.validation_augmented) == ("best_loss", False)
    assert (training.validation_crops, training.precision) == (1, "float32")
    assert recipe.prediction.overlap_ijk == (80, 80, 40)


def test_covid_segnet_recipe_differs_in_what_is_its_own() -> None:
    recipe = read_experiment(SEGNET)
    assert recipe.preprocessing == read_experiment().preprocessing
    assert (recipe.network.name, recipe.patches.size_ijk, recipe.augmentation) == ("covid_segnet", (128, 128, 64), None)
    assert (recipe.loss.overlap, recipe.loss.overlap_weight, recipe.loss.crossentropy_weight) == ("dice_mean", 0.5, 0.5)
    assert (recipe.patches.batch, recipe.network.options, recipe.training.plateau) == (2, {"width": 64}, None)
    adam = recipe.optimizer
    assert (adam.learning_rate, adam.betas, adam.epsilon, adam.decay) == (1e-4, (0.9, 0.999), 1e-8, 1e-6)


@pytest.mark.parametrize("path", [PAPER, SEGNET])
def test_recipe_survives_being_written(path: Path) -> None:
    recipe = read_experiment(path)
    assert experiment_from(yaml.safe_load(yaml.safe_dump(recipe.to_plain()))) == recipe


def _paths(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict) and key != "options":
            yield from _paths(value, (*prefix, key))


def test_every_setting_must_be_stated_and_no_other() -> None:
    paths = [path for path in _paths(paper_values()) if path[1:] and "options" not in path[:-1]]
    assert len(paths) > 60
    whole = paper_values()
    for path in paths:
        values = copy.deepcopy(whole)
        group = values
        for key in path[:-1]:
            group = group[key]
        value = group.pop(path[-1])
        with pytest.raises(SettingsError, match=f"key '{'.'.join(path)}' is missing"):
            experiment_from(values)
        group[path[-1]], group["more"] = value, 1
        with pytest.raises(SettingsError, match=f"unknown key '{'.'.join(path[:-1])}.more'"):
            experiment_from(values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("preprocessing__clip_hu", [250, -1250], "experiment.preprocessing.clip_hu must be two numbers"),
        ("preprocessing__clip_hu", [-1250, -1250], "experiment.preprocessing.clip_hu must be two numbers"),
        ("preprocessing__spacing_ijk_mm", [1.58, 0, 2.7], "experiment.preprocessing.spacing_ijk_mm must be above 0"),
        ("preprocessing__interpolation", "quintic", "experiment.preprocessing.interpolation must be one of cubic"),
        ("preprocessing__label_threshold", 0.0, "experiment.preprocessing.label_threshold must be above 0"),
        ("preprocessing__z_score", 1, "experiment.preprocessing.z_score must be true or false"),
        ("augmentation__gamma__probability", 1.5, "experiment.augmentation.gamma.probability must be 0 to 1"),
        ("augmentation__gamma__probability", float("nan"), "experiment.augmentation.gamma.probability must be 0 to 1"),
        ("augmentation__scale__below", [0.0, 1.0], "experiment.augmentation.scale.below must be two numbers above 0"),
        ("augmentation__noise__std", [0.1, 0.0], "experiment.augmentation.noise.std must be two numbers from 0 on"),
        ("augmentation__elastic__sigma", [0.0, 1.0], "experiment.augmentation.elastic.sigma must be above 0"),
        ("augmentation__rotation__degrees_ijk", [200, 0, 0], "experiment.augmentation.rotation.degrees_ijk must be"),
        ("augmentation__mirror__swaps_sides", True, "experiment.augmentation.mirror.swaps_sides must be false unless"),
        ("patches__batch", 0, "experiment.patches.batch must be at least 1"),
        (
            "patches__size_ijk",
            [30, 32, 16],
            "recipe.yaml: experiment.patches.size_ijk must be multiples of 16 for 'unet3d', not [30, 32, 16]",
        ),
        ("network__name", "resnet", "network.name must be one of unet3d"),
        ("network__classes", 1, "experiment.network.classes must be 2 to 255"),
        ("network__options", {"depth": 3}, "unknown key 'network.options.depth'"),
        ("network__options", None, "experiment.network.options must be a mapping of keys to values, not None"),
        ("network__options", [1], "experiment.network.options must be a mapping of keys to values, not [1]"),
        ("loss__overlap", "focal", "experiment.loss.overlap must be one of tversky_sum, dice_mean"),
        ("loss__smooth", 0.0, "experiment.loss.smooth must be above 0"),
        ("loss__overlap_weight", -1.0, "experiment.loss.overlap_weight must be 0 or above"),
        ("optimizer__learning_rate", "1e-3", "experiment.optimizer.learning_rate must be a number, not '1e-3'"),
        ("optimizer__betas", [0.9, 1.0], "experiment.optimizer.betas must be from 0 to below 1"),
        ("training__epochs", 0, "experiment.training.epochs must be at least 1"),
        ("training__epochs", 1.5, "experiment.training.epochs must be a whole number"),
        ("training__early_stopping_patience", 0, "experiment.training.early_stopping_patience must be at least 1"),
        ("training__plateau__patience", 0, "experiment.training.plateau.patience must be at least 1"),
        ("training__plateau__minimum", 1.0, "experiment.training.plateau.minimum must be 0 to the learning rate"),
        ("training__checkpoint_rule", "best", "experiment.training.checkpoint_rule must be one of best_loss, last"),
        ("training__seed", -1, "experiment.training.seed must be 0 or above"),
        ("training__seed", 2**63, "experiment.training.seed must be 0 or above, and below 2^63"),
        ("prediction__overlap_ijk", [32, 8, 8], "experiment.prediction.overlap_ijk must be from 0 to below"),
    ],
)
def test_impossible_values_are_named_by_file_and_key(tmp_path: Path, path: str, value: Any, message: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_values(**{path: value})), encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        read_experiment(recipe)
    assert message in str(raised.value) and "recipe.yaml" in str(raised.value)


def test_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    text = yaml.safe_dump(tiny_values())
    (tmp_path / "recipe.yaml").write_text(text.replace("    epochs: 3\n", "    epochs: 3\n    epochs: 500\n"))
    with pytest.raises(SettingsError, match=r"recipe.yaml: no valid YAML: key 'epochs' is there twice"):
        read_experiment(tmp_path / "recipe.yaml")


def test_steps_can_be_left_out() -> None:
    recipe = tiny_recipe(
        augmentation=None,
        preprocessing__clip_hu=None,
        preprocessing__grey_levels=None,
        preprocessing__spacing_ijk_mm=None,
        training__plateau=None,
        training__early_stopping_patience=None,
    )
    assert recipe.augmentation is None and recipe.training.plateau is None


def test_recipes_are_told_from_other_settings(tmp_path: Path) -> None:
    assert is_experiment(PAPER) and is_experiment(SEGNET)
    assert not is_experiment(None) and not is_experiment(PRODUCT) and not is_experiment(tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]", encoding="utf-8")
    assert not is_experiment(tmp_path / "list.yaml")
    with pytest.raises(SettingsError, match=r"list.yaml: a recipe has the single key 'experiment'"):
        read_experiment(tmp_path / "list.yaml")
    with pytest.raises(SettingsError, match=r"nothing.yaml: cannot be read"):
        read_experiment(tmp_path / "nothing.yaml")
