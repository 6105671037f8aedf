from __future__ import annotations

import io
import json
import locale
import sys
from pathlib import Path

import pytest
import yaml
from CovidSegLib.bundle import load_bundle
from helpers_experiment import tiny_values
from helpers_training import write_ball_cache

from CovidSegTraining import cli
from CovidSegTraining.cli import main

TEACHER = Path(cli.__file__).with_name("configs") / "teacher.yaml"
TINY = {
    "data": {
        "labelled": {"folder": "muller20"},
        "whole_chests": [{"path": "ct/chest_a.nii.gz", "diseased": True}],
        "phantoms": {"count": 3},
    },
    "fit": {
        "network": {"width": 2},
        "preprocessing": {"spacing_ijk_mm": [4.0, 4.0, 6.0]},
        "stages": [{"until": 1.0, "patch_kji": [16, 32, 32], "batch": 1}],
        "steps": 2,
        "bfloat16": False,
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return path


def test_from_data_to_benchmark(
    tmp_path: Path, config: Path, phantom_data: Path, threshold_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run, bundle, out = (tmp_path / name for name in ("cache", "run", "bundle", "out"))
    common = ["--data", str(phantom_data), "--config", str(config)]
    assert main(["prepare", *common, "-o", str(cache), "--phantoms", "0"]) == 0
    assert sorted(path.name for path in cache.iterdir()) == ["chest_a.npz", "coronacases_001.npz"]
    assert main(["pseudo", *common, "--bundle", str(threshold_bundle), "--cache", str(cache), "--threads", "1"]) == 0
    assert main(["fit", "--cache", str(cache), "-o", str(run), "--config", str(config), "--threads", "1"]) == 0
    assert "2 steps" in capsys.readouterr().out
    weights = ["--weights", str(run / "average.pt"), "--bundle", str(bundle), "--version", "0.3.0"]
    assert main(["export", *weights]) == 0
    capsys.readouterr()
    loaded = load_bundle(bundle)
    assert (loaded.version, loaded.network_config.width) == ("0.3.0", 2)
    assert loaded.preprocessing.spacing_ijk_mm == (4.0, 4.0, 6.0)

    benchmark = ["benchmark", "--bundle", str(threshold_bundle), "--data", str(phantom_data), "--device", "cpu"]
    assert main([*benchmark, "--only", "normal001", "--mode", "fast", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("# Benchmark of threshold") and "normal001, POI" in captured.out
    assert "normal001: POI" in captured.err
    assert sorted(path.name for path in out.iterdir()) == ["benchmark.json", "benchmark.md"]


@pytest.mark.parametrize(
    "command",
    [
        "benchmark --data {0}",
        "calibrate --data {0}",
        "cv --data {0}",
        "download",
        "evaluate --predictions {0} --data {0}",
        "explore --data {0}",
        "figures --histories {0}",
        "fit --cache {0}",
        "pack --cache {0}",
        "predict --run {0} --data {0}",
        "prepare --data {0}",
    ],
)
def test_output_that_is_a_file_is_told_before_any_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("other contents")
    arguments = [word.format(tmp_path) for word in command.split()]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "out' is a file, where a folder is needed" in captured.err
    assert (tmp_path / "out").read_text() == "other contents"


def test_fit_continues_from_other_weights(tmp_path: Path, config: Path) -> None:
    cache = write_ball_cache(tmp_path / "cache")
    fit = ["fit", "--cache", str(cache), "--config", str(config)]
    assert main([*fit, "-o", str(tmp_path / "a")]) == 0
    assert main([*fit, "-o", str(tmp_path / "b"), "--init", str(tmp_path / "a" / "average.pt")]) == 0
    assert main([*fit, "-o", str(tmp_path / "c"), "--init", str(tmp_path / "nothing.pt")]) == 2


def test_fit_does_not_learn_from_cases_prepared_for_another_grid(
    tmp_path: Path, config: Path, phantom_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare = ["prepare", "--data", str(phantom_data), "--config", str(config), "--phantoms", "0"]
    assert main([*prepare, "-o", str(tmp_path / "cache")]) == 0
    fit = ["fit", "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "run"), "--config"]
    finer = tmp_path / "finer.yaml"
    finer.write_text(config.read_text().replace("- 4.0\n", "- 2.0\n"), encoding="utf-8")
    assert main([*fit, str(finer)]) == 1
    assert "prepared with other settings" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    softer = tmp_path / "softer.yaml"  # cases are prepared without the wide kernel
    softer.write_text(config.read_text().replace("preprocessing:\n", "preprocessing:\n    kernel_voxels: 1.6\n"))
    assert main([*fit, str(softer)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["nonsense"], "invalid choice"),
        (["fit"], "required"),
        (["fit", "--cache", "/nowhere", "-o", "x"], "no folder '/nowhere'"),
        (["prepare", "--data", ".", "-o", "x", "--phantoms", "-1"], "'-1' is not a whole number from 0 on"),
        (["fit", "--cache", ".", "-o", "x", "--minutes", "0"], "'0' is not a number above 0"),
        (["fit", "--cache", ".", "-o", "x", "--minutes", "nan"], "'nan' is not a number above 0"),
        (["benchmark", "--data", ".", "--mode", "slow"], "invalid choice"),
        (["cv", "--data", ".", "-o", "x", "--seed", "3"], "--seed is for the new folds of --k"),
        (["split", "--cases", "a", "b", "--original", "--seed", "3", "-o", "x"], "--seed is for new folds (--k)"),
        (["evaluate", "--scores", __file__, "--patients", __file__], "--patients goes with --folds"),
        (["evaluate", "--scores", "nowhere.csv"], "argument --scores: no file 'nowhere.csv'"),
        (["evaluate", "--scores", "."], "argument --scores: no file '.'"),
        (["evaluate", "--scores", __file__, "--folds", "nowhere.json"], "argument --folds: no file 'nowhere.json'"),
        (["cv", "--data", ".", "-o", "x", "--folds", "nowhere.json"], "argument --folds: no file 'nowhere.json'"),
        (["cv", "--data", ".", "-o", "x", "--patients", "nowhere.json"], "argument --patients: no file"),
        (["split", "--cases", "a", "--patients", "nowhere.json", "-o", "x"], "argument --patients: no file"),
        (["fit", "--cache", ".", "-o", "x", "--folds", "nowhere.json"], "argument --folds: no file 'nowhere.json'"),
        (["fit", "--cache", ".", "-o", "x", "--init", "nowhere.pt"], "argument --init: no file 'nowhere.pt'"),
        (["fit", "--cache", ".", "-o", "x", "--teacher", "nowhere"], "argument --teacher: no folder 'nowhere'"),
        (
            ["pseudo", "--bundle", ".", "--data", ".", "--cache", ".", "--config", str(TEACHER)],
            "the settings list no diseased whole chests: check --config",
        ),
        (["export", "--weights", "nowhere.pt", "--bundle", "x"], "argument --weights: no file 'nowhere.pt'"),
        (["prepare", "--data", ".", "-o", "x", "--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["fit", "--cache", ".", "-o", "x", "--fold", "0", "--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_usage_errors_are_one_line_and_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("covidseg-train: error: ") and error.count("\n") == 1


def test_patients_of_the_papers_folds_are_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_values()), encoding="utf-8")
    fit = ["fit", "--config", str(tmp_path / "recipe.yaml"), "--cache", str(tmp_path), "--fold", "0", "-o", "x"]
    assert main([*fit, "--patients", str(tmp_path / "recipe.yaml")]) == 2
    assert "--patients goes with --folds" in capsys.readouterr().err


def test_patients_whose_names_are_no_case_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "patients.json").write_text(json.dumps({"a": "x", "b.nii.gz": "x"}))
    split = ["split", "--cases", "a", "b", "--k", "2", "-o", str(tmp_path / "folds.json")]
    assert main([*split, "--patients", str(tmp_path / "patients.json")]) == 0
    assert "warning: --patients: 1 of its names are no case here, misspelt perhaps: b.nii.gz" in capsys.readouterr().err


def test_letters_that_the_terminal_cannot_show_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    folds = tmp_path / "Brüche.json"
    assert main(["split", "--cases", "ä", "b", "--k", "2", "-o", str(folds)]) == 0
    assert main(["evaluate", "--scores", str(tmp_path / "fehlt ü.csv")]) == 2
    out, err = (stream.buffer.getvalue().decode("ascii") for stream in streams)  # type: ignore[attr-defined]
    assert folds.exists() and "Br\\xfcche.json: 2 folds" in out
    assert "fehlt \\xfc.csv'" in err and err.count("\n") == 1


def test_absent_device_is_a_usage_error(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = write_ball_cache(tmp_path / "cache", count=1)
    fit = ["fit", "--cache", str(cache), "-o", str(tmp_path / "run"), "--config", str(config)]
    assert main([*fit, "--device", "cuda:99"]) == 2
    assert "cuda:99" in capsys.readouterr().err


def test_product_is_not_trained_by_several_processes(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    assert main(["fit", "--config", str(config), "--cache", str(tmp_path), "-o", str(tmp_path / "run")]) == 2
    assert "trains in one process: run it without torchrun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_failure_is_one_line_and_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--cache", str(tmp_path), "-o", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "no prepared cases" in error and error.count("\n") == 1


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:5].strip() and line[:4].isspace()
    ]
    assert {"download", "prepare", "fit", "cv", "evaluate", "calibrate"} <= set(listed)


def test_paths_of_any_letters_are_opened_on_windows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen: list[tuple[int, str]] = []
    monkeypatch.setattr(locale, "setlocale", lambda category, name: chosen.append((category, name)))
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["--help"]) == 0
    assert chosen == [(locale.LC_CTYPE, ".UTF-8")]
    capsys.readouterr()
