from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import ModelError
from CovidSegLib.network import NetworkConfig
from CovidSegLib.preprocess import PreprocessingRecipe
from helpers_training import NEUTRAL, write_ball_cache

from CovidSegTraining import fit as fit_module
from CovidSegTraining.cli import main
from CovidSegTraining.fit import Fit
from CovidSegTraining.product.fit_checks import refuse_teacher_of_other_input
from CovidSegTraining.product.fit_config import FitConfig, Stage
from CovidSegTraining.product.lesions import LesionRecipe
from CovidSegTraining.product.patches import load_cases

STAGE = Stage(1.0, (16, 32, 32), 1)
CONFIG = FitConfig(
    network=NetworkConfig(width=4),
    augmentation=NEUTRAL,
    lesions=LesionRecipe(probability=0.0),
    stages=(STAGE,),
    steps=60,
    learning_rate=1e-2,
    consistency_weight=1.0,
    consistency_from=0.0,
    freeze_norm_from=1.0,
    bfloat16=False,
)


def test_network_learns_the_answers_of_a_smaller_teacher(
    tmp_path: Path, threshold_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "partial_label_loss", lambda logits, codes, **_: 0.0 * logits.sum())
    teacher = load_bundle(threshold_bundle).network
    taught = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    cases = load_cases(write_ball_cache(tmp_path / "cache"))
    fit = Fit(tmp_path / "run", cases=cases, config=CONFIG, teacher=teacher)
    fit.run()

    image = fit.patches.batch(STAGE).image
    with torch.no_grad():
        wanted = teacher(image).argmax(1)
        fit.network.train()  # with the statistics of this patch, as it was trained
        agreement = (fit.network(image).argmax(1) == wanted).float().mean().item()
    assert wanted.unique().numel() >= 2 and agreement > 0.95
    assert all(torch.equal(tensor, taught[name]) for name, tensor in teacher.state_dict().items())


def test_teacher_takes_the_place_of_the_averaged_weights(tmp_path: Path, threshold_bundle: Path) -> None:
    teacher = load_bundle(threshold_bundle).network
    fit = Fit(tmp_path / "run", cases=load_cases(write_ball_cache(tmp_path / "cache")), config=CONFIG, teacher=teacher)
    batch = fit.patches.batch(STAGE)
    with torch.no_grad():
        taught, averaged = teacher(batch.other), fit.average.eval()(batch.other)
        assert fit._inconsistency(taught, batch).item() == pytest.approx(0.0, abs=1e-6)
        assert fit._inconsistency(averaged, batch).item() > 0.1


@pytest.fixture
def config(tmp_path: Path) -> Path:
    values = {
        "network": {"width": 2},
        "preprocessing": {"spacing_ijk_mm": [4.0, 4.0, 6.0]},
        "stages": [{"until": 1.0, "patch_kji": [16, 32, 32], "batch": 1}],
        "steps": 2,
        "consistency_from": 0.0,
    }
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump({"fit": values}), encoding="utf-8")
    return path


def test_run_belongs_to_its_teacher(
    tmp_path: Path, config: Path, threshold_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = write_ball_cache(tmp_path / "cache"), tmp_path / "run"
    fit = ["fit", "--cache", str(cache), "--config", str(config), "-o", str(run)]
    assert main([*fit, "--teacher", str(threshold_bundle)]) == 0
    teacher = load_bundle(threshold_bundle).sha256
    assert json.loads((run / "config.json").read_text())["teacher"] == teacher
    assert main([*fit, "--teacher", str(threshold_bundle)]) == 0  # as often as one likes
    capsys.readouterr()
    assert main(fit) == 1
    assert f"begun with other settings (fit.teacher is '{teacher}' in config.json there, '' here)" in (
        capsys.readouterr().err
    )


def test_teacher_of_another_input_is_refused(threshold_bundle: Path) -> None:
    teacher = load_bundle(threshold_bundle)
    refuse_teacher_of_other_input(teacher, config=replace(CONFIG, preprocessing=teacher.preprocessing))
    with pytest.raises(ModelError, match=r"threshold: its preprocessing is another than fit\.preprocessing"):
        refuse_teacher_of_other_input(teacher, config=replace(CONFIG, preprocessing=PreprocessingRecipe()))


def test_refused_teacher_leaves_no_run(
    tmp_path: Path, config: Path, threshold_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace("- 6.0", "- 5.0"), encoding="utf-8")
    run = tmp_path / "run"
    fit = ["fit", "--cache", str(write_ball_cache(tmp_path / "cache")), "--config", str(config), "-o", str(run)]
    assert main([*fit, "--teacher", str(threshold_bundle)]) == 1
    assert "cannot teach on these patches" in capsys.readouterr().err and not run.exists()
