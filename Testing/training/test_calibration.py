"""Calibration: errors, temperatures and ROC areas known by hand, and the command on phantoms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.bundle import load_bundle
from CovidSegLib.errors import InputError
from CovidSegLib.labels import Label
from CovidSegLib.uncertainty import tempered
from helpers_training import run_command

from CovidSegTraining.calibration import (
    Reliability,
    calibrate,
    find_labelled,
    fit_temperature,
    measure,
    separation,
)
from CovidSegTraining.experiment.case_scores import CLASSES, COUNTED_SCORES, CaseScores, write_scores
from CovidSegTraining.quality.calibration_report import AGREEMENT, _decision_table, bound_note, extent_parts
from CovidSegTraining.quality.decision import decide, infection_agreement
from CovidSegTraining.quality.label_records import PAPERS_RECORDS
from CovidSegTraining.quality.lung_voxels import LungVoxels, lung_voxels
from CovidSegTraining.report_parts import write_json


def believable(count: int = 60_000, *, seed: int = 0) -> LungVoxels:
    """Return voxels whose labels are drawn from the very probabilities given to them."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.4, 0.5, 0.3, 0.6], count).T.astype(np.float32)
    truth = (rng.random(count) > probabilities.cumsum(axis=0)).sum(axis=0).clip(0, 3).astype(np.uint8)
    found = probabilities.argmax(axis=0).astype(np.uint8)
    return LungVoxels(probabilities, truth, found, deep=rng.random(count) < 0.5)


def test_error_of_two_bins_by_hand() -> None:
    probability = np.array([0.1, 0.2, 0.3, 0.9, 1.0], dtype=np.float32)
    infected = np.array([False, True, False, True, True])
    found = Reliability.of(probability, infected, bins=2)
    # 3 voxels of mean 0.2 and a third infected, 2 of mean 0.95 and all infected.
    assert found.count.tolist() == [3, 2]
    assert found.expected_error == pytest.approx(3 / 5 * (1 / 3 - 0.2) + 2 / 5 * 0.05, abs=1e-6)
    empty_first = Reliability.of(probability[3:], infected[3:], bins=2).to_dict()
    assert empty_first["probability"] == [None, pytest.approx(0.95)] and empty_first["infected"] == [None, 1.0]


def test_probabilities_that_come_true_have_no_error_and_temperature_one() -> None:
    voxels = believable()
    assert fit_temperature([voxels]) == pytest.approx(1.0, abs=0.03)
    figures = measure(voxels, temperature=1.0)
    assert figures["before"] == figures["after"]
    assert figures["before"]["ece"] < 0.01


@pytest.mark.parametrize("sharpened_by", [2.5, 0.6])
def test_fit_undoes_a_sharpening(sharpened_by: float) -> None:
    voxels = believable()
    sharp = replace(voxels, probabilities=tempered(voxels.probabilities, temperature=1 / sharpened_by))
    temperature = fit_temperature([sharp, sharp])
    assert temperature == pytest.approx(sharpened_by, rel=0.04)
    figures = measure(sharp, temperature=temperature)
    for score in ("ece", "brier", "nll"):
        assert figures["after"][score] < figures["before"][score]
    assert figures["after"]["ece"] < 0.01 and figures["before"]["ece"] > 0.03


def test_certain_and_wrong_costs_much_but_is_finite() -> None:
    wrong = LungVoxels(
        np.array([[0], [1], [0], [0]], np.float32), *(np.array([n], np.uint8) for n in (3, 1)), deep=np.array([True])
    )
    assert measure(wrong, temperature=1.0)["before"]["nll"] == pytest.approx(-np.log(np.finfo(np.float32).eps))


def test_doubt_away_from_the_border_is_that_of_the_deep_voxels_alone() -> None:
    voxels = believable(1000)
    wrong = voxels.truth != voxels.found
    figures = measure(replace(voxels, deep=wrong), temperature=1.0)["before"]
    assert figures["entropy_deep"]["disagreeing"] == figures["entropy"]["disagreeing"]
    assert figures["entropy_deep"]["agreeing"] is None and figures["entropy"]["agreeing"] is not None


@pytest.mark.parametrize(("is_right", "temperature"), [(True, 0.2), (False, 10.0)])
def test_temperature_stays_within_what_is_tried(*, is_right: bool, temperature: float) -> None:
    probabilities = np.array([[0.0], [0.6], [0.0], [0.4]], np.float32)
    truth = np.array([Label.LEFT_LUNG if is_right else Label.INFECTION], np.uint8)
    found = np.array([Label.LEFT_LUNG], np.uint8)
    always = LungVoxels(probabilities, truth, found, deep=np.array([True]))
    fitted = fit_temperature([always])
    assert fitted == pytest.approx(temperature, rel=0.01)
    assert "at the end of the range that is searched (0.2 to 10): " in bound_note(fitted) and not bound_note(1.0)


def test_area_under_the_curve_by_hand() -> None:
    doubt, wrong = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    # Of the 4 pairs of a wrong and a right voxel, 3 have the greater doubt at the wrong one.
    assert separation(doubt, wrong) == {"agreeing": 0.25, "disagreeing": pytest.approx(0.575), "auroc": 0.75}
    assert separation(doubt, wrong & False) == {
        "agreeing": pytest.approx(doubt.mean()),
        "disagreeing": None,
        "auroc": None,
    }


def test_factor_decides_how_readily_infection_is_called() -> None:
    healthy, doubtful, infected = (0.0, 0.9, 0.0, 0.1), (0.0, 0.6, 0.0, 0.4), (0.0, 0.1, 0.0, 0.9)
    probabilities = np.array([healthy, doubtful, doubtful, infected], dtype=np.float32).T
    truth = np.array([Label.LEFT_LUNG, Label.LEFT_LUNG, Label.INFECTION, Label.INFECTION], dtype=np.uint8)
    voxels = LungVoxels(probabilities, truth, probabilities.argmax(axis=0).astype(np.uint8), deep=truth > 0)
    assert infection_agreement(voxels, factor=1.0) == (pytest.approx(2 * 1 / 3), 0.25)
    assert infection_agreement(voxels, factor=1.4) == (pytest.approx(2 * 1 / 3), 0.25)
    assert infection_agreement(voxels, factor=1.6) == (pytest.approx(2 * 2 / 5), 0.75)
    assert infection_agreement(voxels, factor=10.0) == (pytest.approx(2 * 2 / 6), 1.0)
    rows = decide({"a": voxels, "b": voxels}, groups={"a": "training", "b": "measured only", "failed": "training"})
    at_two = next(row for row in rows if row["factor"] == 2.0)
    assert at_two["training"] == {"dice": pytest.approx(0.8), "called": 0.75, "labelled": 0.5}
    assert rows[0]["measured only"]["dice"] == pytest.approx(2 / 3)


def test_group_without_any_infection_has_no_dice_and_is_written_all_the_same(tmp_path: Path) -> None:
    probabilities = np.array([(0.0, 0.9, 0.0, 0.1)] * 4, dtype=np.float32).T
    lung = np.full(4, Label.LEFT_LUNG, dtype=np.uint8)
    healthy = LungVoxels(probabilities, lung, lung, deep=lung > 0)
    row = decide({"a": healthy}, groups={"a": "training"})[0]
    assert np.isnan(row["training"]["dice"]) and row["training"]["called"] == row["training"]["labelled"] == 0
    assert "| 1 | n/a | 0.0 / 0.0 |" in _decision_table([row])
    write_json(tmp_path / "a.json", {"decision": [row]})
    assert json.loads((tmp_path / "a.json").read_text())["decision"][0]["training"]["dice"] is None


def test_cases_are_sorted_by_what_they_may_be_used_for(phantom_data: Path) -> None:
    assert find_labelled(phantom_data) == {"coronacases_001": "training", "coronacases_003": "measured only"}
    with pytest.raises(InputError, match="no case of the training is chosen"):
        find_labelled(phantom_data, only=["coronacases_003"])
    with pytest.raises(InputError, match="no labelled case 'imlab_001'"):
        find_labelled(phantom_data, only=["imlab_001"])


def test_voxels_are_the_labelled_lungs_in_valid_slices(phantom_data: Path, threshold_bundle: Path) -> None:
    from CovidSegLib.volume import read_ct

    folder = phantom_data / "muller20" / "coronacases_001"
    voxels = lung_voxels(folder, bundle=load_bundle(threshold_bundle), mode="fast", device="cpu")
    assert voxels.probabilities.shape == (4, voxels.truth.size)
    assert voxels.probabilities.sum(axis=0) == pytest.approx(np.ones(voxels.truth.size), abs=1e-4)
    assert (voxels.truth > 0).all()
    assert 0 < voxels.deep.mean() < 1
    import SimpleITK as sitk

    labels, valid = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz"))) for name in ("segmentation", "valid")
    )
    known_ml = ((labels > 0) & (valid > 0)).sum() * read_ct(folder).geometry.voxel_volume_ml
    # Slices that are only partly known are left out.
    assert known_ml * 0.9 < voxels.truth.size * 4.0 * 4.0 * 6.0 / 1000 < known_ml * 1.02
    # The threshold network calls all lung left, and most infection infection.
    assert set(np.unique(voxels.found)) <= {int(label) for label in Label}
    assert (voxels.found[voxels.infected] == Label.INFECTION).mean() > 0.5


def test_voxels_are_predicted_with_the_ranges_that_the_bundle_has(
    phantom_data: Path, threshold_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_asked(_image: np.ndarray, *, integers: object, **_: object) -> None:
        raise InterruptedError(integers)

    bundle = load_bundle(threshold_bundle)
    bundle.__dict__["integers"] = integers = object()  # as its cached property would
    monkeypatch.setattr("CovidSegTraining.quality.lung_voxels.predict", only_asked)
    folder = next(path.parent for path in sorted(phantom_data.glob("muller20/*/segmentation.nii.gz")))
    with pytest.raises(InterruptedError) as asked:
        lung_voxels(folder, bundle=bundle, mode="fast", device="cpu")
    assert asked.value.args == (integers,)


def test_command_writes_figures_of_both_groups(
    tmp_path: Path, phantom_data: Path, threshold_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", threshold_bundle, "--data", phantom_data, "--mode", "fast", "--device", "cpu"]
    assert run_command("calibrate", *arguments, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert AGREEMENT in printed and "coronacases_003 (measured only)" in printed
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["calibration.json", "calibration.md", "reliability.png"]
    report = json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    assert 0.2 <= report["temperature"] <= 10
    assert "never a label." + bound_note(report["temperature"]) + "\n" in printed
    assert [row["name"] for row in report["cases"]] == ["coronacases_001", "coronacases_003"]
    # The phantom of both groups is the same patient.
    assert report["groups"]["training"] == report["groups"]["measured only"]
    assert report["groups"]["training"]["after"]["nll"] <= report["groups"]["training"]["before"]["nll"]
    assert sum(report["reliability"]["training"]["after"]["count"]) == report["groups"]["training"]["voxels"]


def test_temperature_comes_from_cases_of_the_training_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    voxels = believable(20_000)
    sharp = replace(voxels, probabilities=tempered(voxels.probabilities, temperature=0.4))
    answers = {"coronacases_001": voxels, "coronacases_003": sharp}
    for name in answers:
        (tmp_path / "muller20" / name).mkdir(parents=True)
        (tmp_path / "muller20" / name / "segmentation.nii.gz").touch()
    monkeypatch.setattr("CovidSegTraining.calibration.lung_voxels", lambda folder, **_: answers[folder.name])
    found = calibrate(tmp_path, bundle=None, tell=lambda _: None)  # type: ignore[arg-type]
    assert found["temperature"] == pytest.approx(1.0, abs=0.05)


def test_radiologists_share_follows_from_the_labels_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "muller20" / "coronacases_001"
    folder.mkdir(parents=True)
    (folder / "segmentation.nii.gz").touch()
    # 10 % are labelled; half of what there is is found, and 0.8 of what is labelled is right: 16 % are infected.
    truth = np.where(np.arange(1000) < 100, Label.INFECTION, Label.LEFT_LUNG).astype(np.uint8)
    found = np.where(np.arange(1000) < 120, Label.INFECTION, Label.LEFT_LUNG).astype(np.uint8)
    probabilities = np.full((4, 1000), 0.25, dtype=np.float32)
    voxels = LungVoxels(probabilities, truth, found, deep=np.ones(1000, dtype=bool))
    monkeypatch.setattr("CovidSegTraining.calibration.lung_voxels", lambda _folder, **_: voxels)
    assert "by_radiologists" not in calibrate(tmp_path, bundle=None, tell=lambda _: None)["cases"][0]  # type: ignore[arg-type]
    scores = {score: dict.fromkeys(CLASSES, 0.8 if score == "Prec" else 0.5) for score in COUNTED_SCORES}
    (tmp_path / PAPERS_RECORDS).parent.mkdir()
    write_scores(tmp_path / PAPERS_RECORDS, [CaseScores("coronacases_001", scores)])
    row = calibrate(tmp_path, bundle=None, tell=lambda _: None)["cases"][0]  # type: ignore[arg-type]
    assert (row["infected"], row["called"], row["by_radiologists"]) == pytest.approx((0.10, 0.12, 0.16))
    text = "\n".join(extent_parts([row]))
    assert "| coronacases_001 (training) | 12.0 | 10.0 | 16.0 | -4.0 | -6.0 |" in text
    assert "| **training**, mean size |  |  |  | 4.0 | 6.0 |" in text
    assert "| **training**, median size |  |  |  | 4.0 | 6.0 |" in text


def test_failed_case_is_named_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("coronacases_001", "coronacases_002"):
        (tmp_path / "muller20" / name).mkdir(parents=True)
        (tmp_path / "muller20" / name / "segmentation.nii.gz").touch()

    def answer(folder: Path, **_: object) -> LungVoxels:
        if folder.name.endswith("2"):
            raise InputError("coronacases_002: no lungs found")
        return believable(5_000)

    monkeypatch.setattr("CovidSegTraining.calibration.lung_voxels", answer)
    told: list[str] = []
    found = calibrate(tmp_path, bundle=None, tell=told.append)  # type: ignore[arg-type]
    assert [row["error"] for row in found["cases"]] == [None, "coronacases_002: no lungs found"]
    assert told[-1] == "coronacases_002: FAILED: coronacases_002: no lungs found"
    monkeypatch.setattr("CovidSegTraining.calibration.lung_voxels", lambda folder, **_: answer(Path("2")))
    with pytest.raises(InputError, match="every case of the training failed"):
        calibrate(tmp_path, bundle=None, tell=told.append)  # type: ignore[arg-type]
