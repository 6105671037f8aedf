from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.commands.parser import UsageError
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from helpers_training import run_command, write_nifti

from CovidSegTraining.evaluate import (
    evaluate_scores,
    find_predictions,
    pictured_cases,
    score_prediction,
    score_predictions,
)
from CovidSegTraining.experiment.case_scores import CLASSES, SCORES, CaseScores, read_scores, write_scores
from CovidSegTraining.splits import Fold, original_folds, read_folds, write_folds

GRID = Geometry((16, 14, 12), (2.0, 2.0, 3.0))
#: Slices of infection in the truth and in the prediction of each case.
INFECTED = {"a": (4, 4), "b": (4, 6), "c": (6, 3)}
PNG = b"\x89PNG"

_RUN = """
import argparse, sys
from CovidSegLib.commands.parser import Parser
from CovidSegTraining.commands import evaluate as evaluate_commands
"""


def _labels(*, infected: int) -> np.ndarray:
    labels = np.zeros(GRID.shape_kji, dtype=np.uint8)
    labels[2:10, 3:11, 1:7] = 2
    labels[2:10, 3:11, 9:15] = 1
    labels[2 : 2 + infected, 3:11, 9:15] = 3
    return labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three cases; of the third only the first slices are known."""
    folder = tmp_path / "data"
    hu = np.random.default_rng(0).normal(-500, 200, GRID.shape_kji).astype(np.int16)
    for case, (infected, _) in INFECTED.items():
        write_nifti(folder / case / "imaging.nii.gz", hu, geometry=GRID)
        write_nifti(folder / case / "segmentation.nii.gz", _labels(infected=infected), geometry=GRID)
    valid = np.zeros(GRID.shape_kji, dtype=np.uint8)
    valid[:5] = 1
    write_nifti(folder / "c" / "valid.nii.gz", valid, geometry=GRID)
    return folder


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Predictions in both layouts."""
    folder = tmp_path / "predictions"
    for case, (_, infected) in INFECTED.items():
        path = folder / case / "labelmap.nii.gz" if case == "b" else folder / f"{case}.nii.gz"
        write_nifti(path, _labels(infected=infected), geometry=GRID)
    return folder


def test_predictions_are_scored_tabled_and_drawn(
    data: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds, out = tmp_path / "folds.json", tmp_path / "out"
    assert run_command("split", "--data", data, "--k", 3, "-o", folds) == 0
    arguments = ["--predictions", predictions, "--data", data, "--folds", folds, "-o", out]
    assert run_command("evaluate", *arguments, "--labels-are", "paper-model") == 0
    captured = capsys.readouterr()
    assert "Table 1" in captured.out and "agreement with it, not accuracy" in captured.out
    assert "b: DSC lungs" in captured.err and f"{out}: scores, tables and figures\n" in captured.err
    dice = {case.case: case.values["DSC"]["infection"] for case in read_scores(out / "scores.csv")}
    # Of case c three slices count, and all three are found.
    assert dice == pytest.approx({"a": 1.0, "b": 2 * 4 / (4 + 6), "c": 1.0})
    names = ["all_cases.csv", "figure5_scores.png", "figure6_pictures.png", "scores.csv", "table1.csv"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "tables.md", "tables.txt"]
    assert (out / "figure6_pictures.png").read_bytes().startswith(PNG)
    assert (out / "tables.txt").read_text().strip() in captured.out


def test_tables_from_scores_need_neither_torch_nor_images(data: Path, predictions: Path, tmp_path: Path) -> None:
    folds, scores = tmp_path / "folds.json", tmp_path / "scores.csv"
    assert run_command("split", "--data", data, "--k", 3, "-o", folds) == 0
    found = find_predictions(predictions, data_dir=data)
    write_scores(scores, score_predictions(found, data_dir=data, tell=print))
    script = f"""
{_RUN}
parser = Parser()
evaluate_commands.add_commands(parser.add_subparsers())
options = parser.parse_args(sys.argv[1:])
code = options.command(options)
heavy = {{"torch", "monai", "SimpleITK", "matplotlib", "sklearn"}} & set(sys.modules)
sys.exit(f"imported: {{heavy}}" if heavy else code)
"""
    arguments = ["evaluate", "--scores", str(scores), "--folds", str(folds)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "CovidSeg")])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Table 1:") and "Lowest infection DSC: 0.800, b." in done.stdout


@pytest.mark.realdata
def test_command_prints_the_papers_table(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper = data_dir / "muller20" / "paper"
    assert run_command("evaluate", "--scores", paper / "cv_results.detailed.csv", "--folds", paper / "folds.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["1", "0.907", "0.913", "0.995", "0.556", "0.447", "0.999"]
    assert lines[5].split() == ["4", "0.979", "0.975", "0.999", "0.853", "0.836", "1.000*"]
    assert lines[7].split() == ["AVG", "0.956", "0.956", "0.998", "0.761", "0.730", "0.999"]
    assert lines[8].startswith("1.000*: 0.9997 from these scores; the paper prints 0.999.")
    told = lines.index("In the original folds 2 patients stand on both sides, which can flatter the scores:")
    assert [line.partition(" is ")[0] for line in lines[told + 1 : told + 5]] == [
        "  - fold_0: patient radiopaedia_29",
        "  - fold_2: patient radiopaedia_10",
        "  - fold_3: patient radiopaedia_10",
        "  - fold_3: patient radiopaedia_29",
    ]


@pytest.mark.parametrize(("shared", "stand"), [(("p",), "a patient stands"), (("p", "q"), "2 patients stand")])
def test_patients_on_both_sides_are_counted_and_listed_a_line_each(shared: tuple[str, ...], stand: str) -> None:
    cases = {"a1": "p", "a2": "p", "b1": "q", "b2": "q" if "q" in shared else "r"}
    folds = [Fold(("a1", "b1"), ("a2", "b2")), Fold(("a2", "b2"), ("a1", "b1"))]
    values = {score: dict.fromkeys(CLASSES, 0.9) for score in SCORES}
    scores = [CaseScores(name, values) for name in cases]
    evaluation = evaluate_scores(scores, folds=folds, patients=cases)
    told = f"In these folds {stand} on both sides, which can flatter the scores:\n"
    told += "  - fold_0: patient p is in training (a1) and validation (a2)\n"
    assert told in evaluation.to_text() and told in evaluation.to_markdown()
    assert evaluation.to_text().count("  - fold_") == 2 * len(shared)


def test_grid_of_a_prediction_must_be_the_truths(data: Path, predictions: Path) -> None:
    moved = Geometry(GRID.size_ijk, GRID.spacing_ijk_mm, origin_lps_mm=(0.0, 0.0, 1.0))
    write_nifti(predictions / "a.nii.gz", _labels(infected=4), geometry=moved)
    with pytest.raises(InputError, match=r"a\.nii\.gz: its grid .* differs .* Resample"):
        score_prediction("a", prediction=predictions / "a.nii.gz", case_dir=data / "a")


def test_labels_out_of_range_and_damaged_files_are_refused(data: Path, predictions: Path) -> None:
    write_nifti(predictions / "a.nii.gz", (_labels(infected=4) * 2).astype(np.uint8), geometry=GRID)
    with pytest.raises(InputError, match="label values other than 0, 1, 2, 3"):
        score_prediction("a", prediction=predictions / "a.nii.gz", case_dir=data / "a")
    (predictions / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read"):
        score_prediction("a", prediction=predictions / "a.nii.gz", case_dir=data / "a")


def test_predictions_without_case_doubled_or_none_are_refused(data: Path, predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no predictions; expected"):
        find_predictions(tmp_path / "empty", data_dir=data)
    write_nifti(predictions / "b.nii.gz", _labels(infected=4), geometry=GRID)
    with pytest.raises(InputError, match="case 'b' has two predictions"):
        find_predictions(predictions, data_dir=data)
    (predictions / "b.nii.gz").rename(predictions / "x.nii.gz")
    with pytest.raises(InputError, match="no case 'x'"):
        find_predictions(predictions, data_dir=data)


def test_pictures_run_from_the_best_case_to_the_worst(data: Path, predictions: Path) -> None:
    cases = score_predictions(find_predictions(predictions, data_dir=data), data_dir=data, tell=print)
    assert [case.case for case in pictured_cases(cases)] == ["a", "c", "b"]
    many = [type(cases[0])(str(n), {"DSC": {"infection": n / 10}}) for n in range(10)]
    assert [case.case for case in pictured_cases(many)] == ["9", "6", "3", "0"]


def test_what_the_labels_are_is_always_said(data: Path, predictions: Path) -> None:
    cases = [score_prediction("a", prediction=predictions / "a.nii.gz", case_dir=data / "a")]
    assert "agreement with that network, not accuracy" in evaluate_scores(cases).to_text()
    assert "against radiologists' labels" in evaluate_scores(cases, labels_are="radiologists").to_markdown()
    assert "Table 1" not in evaluate_scores(cases).to_text()


def test_split_takes_the_papers_folds_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [case for fold in original_folds() for case in fold.validation if case != "coronacases_001"]
    path = tmp_path / "folds.json"
    assert run_command("split", "--cases", *cases, "mine", "--original", "-o", path) == 0
    captured = capsys.readouterr()
    assert "1 of the paper's 20 cases are missing: coronacases_001" in captured.err
    assert "in none of the paper's folds and left out: mine" in captured.err
    assert "fold_3: patient radiopaedia_10 is in training" in captured.err
    assert "5 folds, training/validation 16/3, 15/4" in captured.out
    assert [len(fold.validation) for fold in read_folds(path)] == [3, 4, 4, 4, 4]


def test_arguments_that_do_not_go_together_are_usage_errors(tmp_path: Path) -> None:
    for arguments, message in [
        (["evaluate"], "--scores --predictions is required"),
        (["evaluate", "--predictions", tmp_path], "--predictions needs --data and -o"),
        (["evaluate", "--scores", __file__, "--data", tmp_path], "not with --scores"),
        (["split", "--cases", "a", "-o", "x", "--k", 3, "--original"], "not allowed with"),
        (["split", "-o", "x"], "--data --cases is required"),
    ]:
        with pytest.raises(UsageError, match=message):
            run_command(*arguments)


def test_folds_of_other_cases_are_refused_before_anything_is_scored(
    data: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folds(tmp_path / "folds.json", original_folds())
    with pytest.raises(InputError, match="fold_0: no scores for case 'coronacases_001'"):
        run_command(
            *("evaluate", "--predictions", predictions, "--data", data),
            *("--folds", tmp_path / "folds.json", "-o", tmp_path / "out"),
        )
    assert capsys.readouterr().err == "" and not (tmp_path / "out").exists()


def test_image_on_another_grid_than_its_labels_is_refused(data: Path, predictions: Path, tmp_path: Path) -> None:
    path = data / "a" / "imaging.nii.gz"
    image = sitk.ReadImage(str(path))
    image.SetOrigin((50.0, 0.0, 0.0))
    sitk.WriteImage(image, str(path))
    with pytest.raises(InputError, match="imaging and segmentation lie on different grids"):
        run_command("evaluate", "--predictions", predictions, "--data", data, "-o", tmp_path / "out")


def test_what_a_killed_prediction_had_begun_is_no_prediction(data: Path, predictions: Path) -> None:
    (predictions / ".part-a.nii.gz").write_bytes(b"half")
    assert list(find_predictions(predictions, data_dir=data)) == ["a", "b", "c"]
