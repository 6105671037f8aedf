"""What is on record about the labels is read, and says how much the radiologists called infection."""

from __future__ import annotations

from pathlib import Path

import pytest
from CovidSegLib.errors import InputError

from CovidSegTraining.experiment.case_scores import CLASSES, COUNTED_SCORES, CaseScores, read_scores, write_scores
from CovidSegTraining.quality.label_records import PAPERS_RECORDS, LabelRecord, find_label_records, read_label_records


def test_volume_follows_from_sensitivity_and_precision() -> None:
    # 100 ml labelled, 80 of them rightly, which is half of all: the radiologists have 160 ml.
    assert LabelRecord(sensitivity=0.5, precision=0.8).volume_ratio == pytest.approx(1.6)


def test_cases_without_a_ratio_are_left_out(tmp_path: Path) -> None:
    scores = {score: dict.fromkeys(CLASSES, 0.5) for score in COUNTED_SCORES}
    blind = {**scores, "Sens": dict.fromkeys(CLASSES, 0.0)}
    undefined = {**scores, "Prec": dict.fromkeys(CLASSES, float("nan"))}
    cases = [CaseScores("seen", scores), CaseScores("blind", blind), CaseScores("undefined", undefined)]
    write_scores(tmp_path / "records.csv", cases)
    assert read_label_records(tmp_path / "records.csv") == {"seen": LabelRecord(0.5, 0.5)}
    write_scores(tmp_path / "records.csv", cases[1:])
    with pytest.raises(InputError, match=r"records.csv: no case with sensitivity and precision of infection"):
        read_label_records(tmp_path / "records.csv")


def test_folder_without_records_has_none_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    assert find_label_records(tmp_path) == {}
    path = tmp_path / PAPERS_RECORDS
    path.parent.mkdir(parents=True)
    path.write_text("nonsense")
    with pytest.raises(InputError, match="the first line must be"):
        find_label_records(tmp_path)


@pytest.mark.realdata
def test_records_of_the_paper_agree_with_its_dice(data_dir: Path) -> None:
    records = find_label_records(data_dir)
    assert len(records) == 20
    assert records["coronacases_001"].sensitivity == pytest.approx(0.477, abs=0.001)
    assert records["coronacases_001"].volume_ratio == pytest.approx(1.936, abs=0.001)
    # DSC = 2 Sens Prec / (Sens + Prec) ties them to the third score of the same file.
    for scores in read_scores(data_dir / PAPERS_RECORDS):
        record = records[scores.case]
        dice = 2 * record.sensitivity * record.precision / (record.sensitivity + record.precision)
        assert dice == pytest.approx(scores.values["DSC"]["infection"], abs=1e-6)
