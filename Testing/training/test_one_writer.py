"""Two runs that write to the same folder do not spoil each other's files: the second is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from CovidSegLib.bundle import load_bundle
from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.errors import InputError
from CovidSegLib.network import NetworkConfig
from CovidSegLib.preprocess import PreprocessingRecipe
from helpers_experiment import ball_cases, tiny_recipe, write_cases
from helpers_training import SPACING_IJK_MM, write_ball_cache

from CovidSegTraining.cli import main
from CovidSegTraining.data import DataConfig, LabelledCases, Phantoms, WholeChest
from CovidSegTraining.experiment import run_folder
from CovidSegTraining.experiment.cache import prepare_cases
from CovidSegTraining.experiment.config import read_experiment
from CovidSegTraining.experiment.fit import ExperimentFit
from CovidSegTraining.experiment.run_folder import RunFolder
from CovidSegTraining.fit import Fit
from CovidSegTraining.prepare import prepare
from CovidSegTraining.product.fit_config import FitConfig, Stage
from CovidSegTraining.product.patches import load_cases
from CovidSegTraining.product.pseudo import self_label_chests
from CovidSegTraining.splits import Fold, write_folds

ORIGIN: dict[str, dict[str, str]] = {"training": {}, "validation": {}}
REFUSED = "another CovidSeg run is writing to"


def test_fold_is_trained_by_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_summary_writer", lambda folder, *, first_epoch: False)
    fold = Fold(("case_0", "case_1"), ("case_2",))
    recipe = tiny_recipe(training__epochs=1, training__batches_per_epoch=1)
    fit = ExperimentFit(tmp_path, cases=ball_cases(), fold=fold, fold_number=0, recipe=recipe, device="cpu")
    told: list[str] = []
    with run_lock(tmp_path), pytest.raises(InputError, match=REFUSED):
        fit.run(tell=told.append)
    assert fit.epoch == 0 and told == []  # as if it were going on
    fit.run(tell=lambda line: None)
    with run_lock(tmp_path):
        fit.run(tell=lambda line: None)  # at its end it writes nothing
    assert fit.epoch == 1 and not list(tmp_path.glob(".*"))


def test_fold_that_another_run_has_trained_meanwhile_is_not_spoilt(tmp_path: Path) -> None:
    recipe = tiny_recipe(training__epochs=2, training__batches_per_epoch=1)
    fold = Fold(("case_0", "case_1"), ("case_2",))
    one, other = (
        ExperimentFit(tmp_path, cases=ball_cases(), fold=fold, fold_number=0, recipe=recipe, device="cpu")
        for _ in range(2)
    )
    one.run(epochs=1, tell=lambda line: None)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(InputError, match="another run has trained here meanwhile; run the same command again"):
        other.run(tell=lambda line: None)
    assert (tmp_path / "last.pt").read_bytes() == before
    one.run(tell=lambda line: None)  # its own checkpoints are no other run's
    assert one.finished


def test_recipe_that_a_run_is_begun_with_is_not_replaced_by_one_begun_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_run_begins() -> dict[str, object]:
        with pytest.raises(InputError, match=REFUSED):
            RunFolder(tmp_path, fold=0).begin(tiny_recipe(training__seed=1), origin=ORIGIN)
        return {}

    monkeypatch.setattr(run_folder, "_surroundings", other_run_begins)
    RunFolder(tmp_path, fold=0).begin(tiny_recipe(), origin=ORIGIN)
    assert read_experiment(tmp_path / "recipe.yaml") == tiny_recipe()


def test_refused_command_says_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, data, cache = tiny_recipe(), write_cases(tmp_path / "data"), tmp_path / "cache"
    prepare_cases(data, cache_dir=cache, settings=recipe.preprocessing, classes=4, tell=lambda line: None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_plain()), encoding="utf-8")
    write_folds(tmp_path / "folds.json", [Fold(("case_0", "case_1"), ("case_2",))])
    (tmp_path / "run").mkdir()
    fit = ["fit", "--config", str(tmp_path / "recipe.yaml"), "--cache", str(cache), "-o", str(tmp_path / "run")]
    with run_lock(tmp_path / "run"):
        assert main([*fit, "--folds", str(tmp_path / "folds.json"), "--fold", "0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and REFUSED in captured.err and captured.err.count("\n") == 1


def test_product_is_trained_by_one_run_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cases = load_cases(write_ball_cache(tmp_path / "cache", count=1))
    stages = (Stage(1.0, (16, 32, 32), 1),)
    config = FitConfig(network=NetworkConfig(width=2), stages=stages, steps=1, bfloat16=False)
    fit = Fit(tmp_path / "run", cases=cases, config=config)
    with run_lock(tmp_path / "run"), pytest.raises(InputError, match=REFUSED):
        fit.run()
    assert caplog.messages == []
    fit.run()
    assert fit.step == 1 and not list((tmp_path / "run").glob(".*"))


def test_product_goes_on_from_what_another_run_has_trained_meanwhile(tmp_path: Path) -> None:
    cases = load_cases(write_ball_cache(tmp_path / "cache", count=1))
    config = FitConfig(network=NetworkConfig(width=2), stages=(Stage(1.0, (16, 32, 32), 1),), bfloat16=False)
    one = Fit(tmp_path / "run", cases=cases, config=replace(config, steps=2))
    other = Fit(tmp_path / "run", cases=cases, config=replace(config, steps=3))
    one.run()
    steps: list[float] = []
    step = other._train_step
    other._train_step = lambda progress: steps.append(progress) or step(progress)  # type: ignore[method-assign]
    other.run()
    assert other.step == 3 and len(steps) == 1


def test_prepared_cases_that_two_runs_share_are_written_by_one(tmp_path: Path) -> None:
    data, cache = write_cases(tmp_path / "data", count=1), tmp_path / "cache"
    settings = tiny_recipe().preprocessing

    def prepared() -> list[str]:
        return prepare_cases(data, cache_dir=cache, settings=settings, classes=4, tell=lambda line: None)

    cache.mkdir()
    with run_lock(cache), pytest.raises(InputError, match=REFUSED):
        prepared()
    assert prepared() == ["case_0"]
    with run_lock(cache):
        assert prepared() == ["case_0"]  # complete: nothing is written


def test_products_cases_are_prepared_by_one_run_at_a_time(tmp_path: Path, phantom_data: Path) -> None:
    config = DataConfig(labelled=LabelledCases(), phantoms=Phantoms(count=0))
    cache = tmp_path / "cache"

    def run() -> None:
        recipe = PreprocessingRecipe(spacing_ijk_mm=SPACING_IJK_MM)
        prepare(config, data_dir=phantom_data, cache_dir=cache, preprocessing=recipe, tell=lambda line: None)

    cache.mkdir()
    with run_lock(cache), pytest.raises(InputError, match=REFUSED):
        run()
    assert not list(cache.glob("*.npz"))
    run()
    assert [path.name for path in cache.iterdir()] == ["coronacases_001.npz"]


def test_cases_are_not_completed_while_they_are_prepared(
    tmp_path: Path, phantom_data: Path, threshold_bundle: Path
) -> None:
    chests, bundle = [WholeChest("ct/chest_a.nii.gz", diseased=True)], load_bundle(threshold_bundle)
    with run_lock(tmp_path), pytest.raises(InputError, match=REFUSED):
        self_label_chests(chests, data_dir=phantom_data, cache_dir=tmp_path, bundle=bundle, tell=print)
