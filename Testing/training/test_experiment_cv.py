from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from CovidSegLib.errors import CovidSegError, DeviceError, InputError
from helpers_experiment import spare_pictures, tiny_recipe, tiny_values, write_case, write_cases
from helpers_training import run_command

from CovidSegTraining.experiment import cluster, predict
from CovidSegTraining.experiment import fit as experiment_fit
from CovidSegTraining.experiment.config import read_experiment
from CovidSegTraining.experiment.cv import Places, cross_validate, left_to_predict
from CovidSegTraining.experiment.fit import ExperimentFit
from CovidSegTraining.experiment.variants import Variant, make_variants, stepwise
from CovidSegTraining.splits import Fold, read_folds

FOLDS = (Fold(("case_0", "case_1"), ("case_2",)), Fold(("case_1", "case_2"), ("case_0",)))
EVALUATION = {
    *("scores.csv", "tables.txt", "tables.md", "table1.csv", "all_cases.csv"),
    *("figure4_loss.png", "figure5_scores.png", "figure6_pictures.png"),
}


@pytest.fixture(autouse=True)
def _quick(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare all tests but those of `whole` the pictures."""
    spare_pictures(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases, prepared by nobody."""
    return write_cases(tmp_path_factory.mktemp("data"))


def _variant(**changes: Any) -> Variant:
    return Variant("", tiny_recipe(**{"training__epochs": 2, **changes}), FOLDS)


def _cross_validate(data: Path, output: Path, *variants: Variant, lines: list[str] | None = None) -> Any:
    told: list[str] = [] if lines is None else lines
    return cross_validate(
        variants or [_variant()],
        places=Places(data, output, output / "cache"),
        device="cpu",
        run_jobs=lambda jobs: cluster.in_sequence(jobs, tell=told.append),
        tell=told.append,
    )


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete, undisturbed run; do not write into it."""
    output = tmp_path_factory.mktemp("whole")
    _cross_validate(data, output)
    return output


def _results(output: Path) -> dict[str, bytes]:
    """Return what a run comes to: histories, predictions, scores and tables."""
    files = [*output.glob("fold_*/history*"), *output.glob("predictions/*"), *output.glob("evaluation/*.[ctm]*")]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


def test_everything_is_there_at_the_end(whole: Path) -> None:
    assert {path.name for path in (whole / "evaluation").iterdir()} == EVALUATION
    assert {path.name for path in (whole / "predictions").iterdir()} == {"case_0.nii.gz", "case_2.nii.gz"}
    assert len(_results(whole)) == 2 + 2 + 5
    assert read_experiment(whole / "recipe.yaml") == _variant().recipe
    assert tuple(read_folds(whole / "folds.json")) == FOLDS
    table = (whole / "evaluation" / "table1.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in table] == ["fold", "1", "2", "AVG"]
    assert not [*whole.rglob("*.part"), *whole.rglob(".part-*"), *whole.rglob("*.lock")]


def test_complete_run_is_left_as_it_is(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = _results(whole)

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(ExperimentFit, "run_epoch", never)
    monkeypatch.setattr("CovidSegTraining.experiment.predict.predict_labels", never)
    monkeypatch.setattr("CovidSegTraining.evaluate.score_prediction", never)
    lines: list[str] = []
    evaluations = _cross_validate(data, tmp_path / "run", lines=lines)
    assert "fold 0: already complete" in lines and "fold 1: already complete" in lines
    assert _results(tmp_path / "run") == before
    assert evaluations[""].to_text().encode() == before["evaluation/tables.txt"]


@pytest.mark.parametrize("batches", [1, 3, 7])  # in the first fold's epochs 1 and 2, in the second fold's epoch 2
def test_broken_off_anywhere_and_run_again_equals_undisturbed(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    step, left = ExperimentFit.train_batch, iter(range(batches))

    def stops(self: ExperimentFit, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(self, image, labels)

    with monkeypatch.context() as patch:
        patch.setattr(ExperimentFit, "train_batch", stops)
        with pytest.raises(KeyboardInterrupt):
            _cross_validate(data, tmp_path)
    lines: list[str] = []
    _cross_validate(data, tmp_path, lines=lines)
    assert _results(tmp_path) == _results(whole)
    epochs = [line for line in lines if ": epoch " in line]
    assert len(epochs) == 4 - batches // 2  # an epoch has two batches; complete ones are not repeated


@pytest.mark.parametrize(
    ("final_weights", "predicted", "left"),
    [
        (True, {"a", "b"}, []),  # complete
        (True, {"a"}, ["b"]),  # predicted
        (False, {"a", "b"}, ["a", "b"]),  # trained to the end, and predicted by other weights than those of now
        (False, set(), ["a", "b"]),
    ],
)
def test_only_predictions_by_the_final_weights_count(
    tmp_path: Path, final_weights: bool, predicted: set[str], left: list[str]
) -> None:
    for name in predicted:
        (tmp_path / name).touch()
    assert left_to_predict({name: tmp_path / name for name in ("a", "b")}, final_weights=final_weights) == left


def test_what_is_deleted_is_made_again(data: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "predictions" / "case_0.nii.gz").unlink()
    lines: list[str] = []
    _cross_validate(data, tmp_path / "run", lines=lines)
    assert _results(tmp_path / "run") == _results(whole)
    assert "fold 0: already complete" in lines and any(line.startswith("case_0: DSC") for line in lines)
    assert not any(": epoch " in line for line in lines)


@pytest.mark.parametrize("left", [None, "epoch\tloss\n"])
def test_history_that_was_deleted_or_emptied_is_made_again(
    data: Path, whole: Path, tmp_path: Path, left: str | None
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    history = tmp_path / "run" / "fold_0" / "history.fold_0.tsv"
    history.unlink()
    if left is not None:
        history.write_text(left)
    lines: list[str] = []
    _cross_validate(data, tmp_path / "run", lines=lines)
    assert _results(tmp_path / "run") == _results(whole)
    assert not any(": epoch " in line for line in lines)


def test_fold_whose_folder_was_deleted_is_trained_and_predicted_again(data: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "fold_0")
    (tmp_path / "run" / "predictions" / "case_2.nii.gz").write_bytes(b"of other weights")
    _cross_validate(data, tmp_path / "run")
    assert _results(tmp_path / "run") == _results(whole)


def test_prediction_of_an_unfinished_fold_is_replaced_at_its_end(data: Path, whole: Path, tmp_path: Path) -> None:
    fit = ExperimentFit.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExperimentFit, "run", lambda self, **options: fit(self, epochs=1, **options))
        _cross_validate(data, tmp_path)  # predicts as 'predict' does in the middle of a run
    _cross_validate(data, tmp_path)
    assert _results(tmp_path) == _results(whole)


@pytest.fixture
def predicted_by_others(data: Path, tmp_path: Path) -> tuple[Variant, Path]:
    """A complete fold with two held-out cases, the first prediction of which is of other weights; and its folder."""
    variant = replace(_variant(), folds=(Fold(("case_0",), ("case_1", "case_2")),))
    _cross_validate(data, tmp_path, variant)
    (tmp_path / "predictions" / "case_1.nii.gz").write_bytes(b"of other weights")
    return variant, tmp_path


def test_fold_without_checkpoints_is_predicted_wholly_by_the_new_ones(
    data: Path, predicted_by_others: tuple[Variant, Path]
) -> None:
    variant, output = predicted_by_others
    (output / "predictions" / "case_2.nii.gz").unlink()
    for path in (output / "fold_0").glob("*.pt"):
        path.unlink()
    _cross_validate(data, output, variant)
    assert (output / "predictions" / "case_1.nii.gz").read_bytes() != b"of other weights"


def test_fold_trained_again_and_killed_while_predicting_leaves_no_prediction_of_other_weights(
    data: Path, predicted_by_others: tuple[Variant, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, output = predicted_by_others
    shutil.rmtree(output / "fold_0")

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(predict, "write_nifti_checked", kill)
        _cross_validate(data, output, variant)
    _cross_validate(data, output, variant)
    assert (output / "predictions" / "case_1.nii.gz").read_bytes() != b"of other weights"


def test_fold_that_fails_does_not_keep_the_others_from_their_end(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ExperimentFit.run

    def fails(self: ExperimentFit, **options: Any) -> None:
        if self.folder.fold == 0:
            raise InputError("the loss of epoch 1 is not a number")
        run(self, **options)

    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(ExperimentFit, "run", fails)
        with pytest.raises(InputError, match="not a number"):
            _cross_validate(data, tmp_path, lines=lines)
    assert "fold 0: failed: the loss of epoch 1 is not a number" in lines
    assert (tmp_path / "predictions" / "case_0.nii.gz").exists() and not (tmp_path / "evaluation").exists()
    _cross_validate(data, tmp_path)
    assert _results(tmp_path) == _results(whole)


def test_evaluation_that_fails_does_not_keep_other_cross_validations_from_their_end(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    variants = [replace(_variant(), name=name) for name in ("a", "b")]
    for variant in variants:
        shutil.copytree(whole, tmp_path / variant.name)
        shutil.rmtree(tmp_path / variant.name / "evaluation")
    shutil.copytree(whole / "cache", tmp_path / "cache")
    (tmp_path / "a" / "predictions" / "case_0.nii.gz").write_bytes(b"damaged")
    lines: list[str] = []
    with pytest.raises(CovidSegError, match="damaged"):
        _cross_validate(data, tmp_path, *variants, lines=lines)
    assert any(line.startswith("a evaluation: failed: ") for line in lines)
    assert not (tmp_path / "a" / "evaluation").exists()
    assert _results(tmp_path / "b") == _results(whole)


def test_folder_of_another_experiment_is_refused(data: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = _results(tmp_path / "run")
    with pytest.raises(
        InputError, match=r"begun with another recipe \(experiment.training.seed is \d+ in recipe.yaml there, 1 here\)"
    ):
        _cross_validate(data, tmp_path / "run", _variant(training__seed=1))
    with pytest.raises(InputError, match="begun with other folds"):
        _cross_validate(data, tmp_path / "run", replace(_variant(), folds=FOLDS[::-1]))
    assert _results(tmp_path / "run") == before


def test_case_that_has_changed_since_is_found(data: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(data, tmp_path / "data")
    write_case(tmp_path / "data" / "case_1", seed=9)
    with pytest.raises(InputError, match="fold_0: case 'case_1' has changed since; choose another folder"):
        _cross_validate(tmp_path / "data", tmp_path / "run")


def test_case_that_is_not_there_is_found_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    variant = replace(_variant(), folds=(Fold(("case_0",), ("case_7",)),))
    with pytest.raises(InputError, match="case 'case_7' of fold_0 is not there"):
        _cross_validate(data, tmp_path / "run", variant)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [(3, "label 3 is out of range; the recipe has 3 classes"), (5, "only 4 classes are scored")],
)
def test_recipe_that_the_cases_do_not_fit_can_be_corrected_in_the_same_folder(
    data: Path, tmp_path: Path, classes: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _cross_validate(data, tmp_path, _variant(network__classes=classes))
    assert not list(tmp_path.glob("fold_*"))
    _cross_validate(data, tmp_path, _variant(training__epochs=1))
    assert (tmp_path / "evaluation").exists()
    assert read_experiment(tmp_path / "recipe.yaml").network.classes == 4


def test_steps_leave_out_what_their_names_say() -> None:
    paper = read_experiment()
    steps = stepwise(paper)
    assert list(steps) == ["neither", "augmentation", "preprocessing", "both"]
    assert steps["both"] == paper
    assert steps["preprocessing"] == replace(paper, augmentation=None)
    for name in ("neither", "augmentation"):
        left = steps[name].preprocessing
        assert (left.clip_hu, left.grey_levels, left.spacing_ijk_mm, left.z_score) == (None, None, None, False)
        assert replace(steps[name], preprocessing=paper.preprocessing, augmentation=None) == steps["preprocessing"]
    assert steps["neither"].augmentation is None and steps["augmentation"].augmentation == paper.augmentation
    with pytest.raises(InputError, match="give a recipe that has both"):
        stepwise(steps["preprocessing"])


def test_names_say_what_differs() -> None:
    recipe = tiny_recipe()
    two = {"k_2": FOLDS, "k_3": FOLDS}
    steps = {"neither": recipe, "both": recipe}
    assert [v.name for v in make_variants({"": recipe}, folds={"k_2": FOLDS})] == [""]
    assert [v.name for v in make_variants({"": recipe}, folds=two)] == ["k_2", "k_3"]
    assert [v.name for v in make_variants(steps, folds={"": FOLDS})] == ["neither", "both"]
    names = [v.name for v in make_variants(steps, folds=two)]
    assert names == ["k_2_neither", "k_2_both", "k_3_neither", "k_3_both"]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_values(training__epochs=1, training__batches_per_epoch=1)), encoding="utf-8")
    yield path


def test_two_numbers_of_folds_are_one_command(
    data: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_command("cv", "--config", config, "--data", data, "-o", run, "--k", 2, "--k", 3, "--seed", 5) == 0
    assert {path.name for path in run.iterdir()} == {"cache", "k_2", "k_3", "summary.txt", "summary.md"}
    assert len(list((run / "cache").iterdir())) == 1  # both have the same prepared cases
    rows = [line.split() for line in (run / "summary.txt").read_text(encoding="utf-8").splitlines()]
    assert [row[:3] for row in rows if row and row[0].startswith("k_")] == [["k_2", "2", "3"], ["k_3", "3", "3"]]
    assert "k_3 fold 2: epoch 1" in capsys.readouterr().out


def test_stepwise_runs_are_one_command(
    data: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_command("cv", "--config", config, "--data", data, "-o", run, "--steps", "--k", 2) == 0
    out = capsys.readouterr().out
    assert "read off its plot: neither 0.05, augmentation 0.10, preprocessing 0.79, both 0.80." in out
    assert out.count("Scores are against the reference labels given.") == 1  # whatever the table is of, it says so
    for name in ("neither", "augmentation", "preprocessing", "both"):
        assert {path.name for path in (run / name / "evaluation").iterdir()} == EVALUATION
        assert f"\n{name} " in out
    assert read_experiment(run / "neither" / "recipe.yaml").augmentation is None
    assert len(list((run / "cache").iterdir())) == 2


def test_papers_folds_need_its_cases(data: Path, config: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fold_0 has no case for training"):
        run_command("cv", "--config", config, "--data", data, "-o", tmp_path / "run")


def test_without_ray_folds_are_done_in_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    lines: list[str] = []
    assert list(cluster.choose_cluster("auto", threads=None, tell=lines.append)([])) == []
    assert len(lines) == 1 and "Ray is not installed" in lines[0]
    with pytest.raises(DeviceError, match="--cluster needs Ray"):
        cluster.choose_cluster("10.0.0.1:6379", threads=None, tell=lines.append)


def test_gpu_that_is_not_there_is_an_error(data: Path, config: Path, tmp_path: Path) -> None:
    with pytest.raises(CovidSegError, match="cuda:99"):
        run_command("cv", "--config", config, "--data", data, "-o", tmp_path / "run", "--k", 2, "--device", "cuda:99")
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_write_into_one_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*arguments: Any, **options: Any) -> None:
        with pytest.raises(InputError, match="another CovidSeg run is writing"):
            _cross_validate(data, tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment_fit.ExperimentFit, "run", second)
    with pytest.raises(KeyboardInterrupt):
        _cross_validate(data, tmp_path)
    assert os.listdir(tmp_path / "fold_0")
