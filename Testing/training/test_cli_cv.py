from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers_experiment import spare_pictures, tiny_values, write_cases

from CovidSegTraining.cli import main
from CovidSegTraining.splits import Fold, read_folds, write_folds

PATIENTS = {"radiopaedia_9_1_0": "one", "radiopaedia_9_2_0": "another"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    spare_pictures(monkeypatch)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Return `cv` with a recipe of one batch; cases 0 and 1 are called as if they were of one patient."""
    values = tiny_values(training__epochs=1, training__batches_per_epoch=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    data = write_cases(tmp_path / "data")
    for number, name in enumerate(PATIENTS):
        (data / f"case_{number}").rename(data / name)
    return ["cv", "--config", str(tmp_path / "recipe.yaml"), "--data", str(data), "-o", str(tmp_path / "run")]


def test_patients_whose_names_mislead_are_the_same_when_it_goes_on(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "patients.json").write_text(json.dumps(PATIENTS))
    told = [*arguments, "--k", "3", "--patients", str(tmp_path / "patients.json")]
    assert main(told) == 0
    assert "on both sides" not in capsys.readouterr().out
    assert main(told) == 0
    out = capsys.readouterr().out
    assert "fold 2: already complete" in out and "on both sides" not in out
    shutil.copy(tmp_path / "run" / "folds.json", tmp_path / "folds.json")
    by_hand = ["fit", *arguments[1:3], "--cache", str(next((tmp_path / "run" / "cache").iterdir())), "--fold", "0"]
    by_hand += ["--folds", str(tmp_path / "folds.json"), "-o", str(tmp_path / "by_hand")]
    assert main(by_hand) == 1
    assert "patient radiopaedia_9 is in training" in capsys.readouterr().err
    assert main([*by_hand, "--patients", str(tmp_path / "patients.json")]) == 0


def test_files_are_named_below_the_folder_as_it_was_given(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments[:-1], "run", "--k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = Path("run", "predictions", "case_2.nii.gz")
    assert any(line.endswith(f"case_2: {named}") for line in lines)
    assert lines[-1] == f"{Path('run', 'evaluation')}: scores, tables and figures"
    assert not any(str(tmp_path) in line for line in lines)


def test_figure_4_is_of_the_runs_own_folds(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "run" / "k_3" / "fold_0").mkdir(parents=True)
    (tmp_path / "run" / "k_3" / "fold_0" / "history.fold_0.tsv").write_text("epoch\tloss\tval_loss\n1\t2.5\t3\n")
    assert main([*arguments, "--k", "2"]) == 0
    assert (tmp_path / "run" / "evaluation" / "figure4_loss.png").read_text() == "2"


def test_cases_in_none_of_the_folds_are_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds(tmp_path / "folds.json", [Fold(("radiopaedia_9_1_0",), ("case_2",))])
    assert main([*arguments, "--folds", str(tmp_path / "folds.json")]) == 0
    assert "warning: 1 cases are in none of the folds and left out: radiopaedia_9_2_0" in capsys.readouterr().err
    assert len(read_folds(tmp_path / "run" / "folds.json")) == 1


def test_own_cases_need_folds_of_their_own(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert "fold_0 has no case for training; add cases, or make new folds with --k" in capsys.readouterr().err


def test_classes_that_nobody_scores_are_refused_before_the_training(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = tiny_values(network__classes=5)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main([*arguments, "--k", "2"]) == 1
    assert "network.classes is 5, but only 4 classes are scored" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
