from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError

from CovidSegTraining.experiment.case_scores import CaseScores, read_scores
from CovidSegTraining.experiment.paper_table import (
    COLUMNS,
    differing_from_paper,
    fold_table,
    overall_csv,
    overall_scores,
    overall_sheet,
    paper_rows,
    table_csv,
    table_sheet,
)
from CovidSegTraining.splits import Fold, original_folds, read_folds

FOLDS = [Fold(("d", "e"), ("a", "b", "c")), Fold(("a", "b", "c"), ("d", "e"))]


def _case(name: str, left: float, right: float, infection: float) -> CaseScores:
    row = {"background": 1.0, "lung_L": left, "lung_R": right, "infection": infection}
    return CaseScores(name, {score: dict(row) for score in ("DSC", "IoU", "Sens", "Spec", "Prec", "Acc")})


def _five_cases() -> list[CaseScores]:
    return [
        _case("a", 0.9, 0.7, 0.8),
        _case("b", 0.8, 0.9, 0.0),
        _case("c", 0.7, 0.6, 0.7),
        _case("d", 0.5, 0.9, math.nan),
        _case("e", 0.7, 0.9, 0.4),
    ]


def _papers_table() -> np.ndarray:
    return np.array([[float(text) for text in row] for row in paper_rows()])


def test_median_per_fold_and_class_then_mean_of_lungs_then_mean_of_folds() -> None:
    table = fold_table(_five_cases(), folds=FOLDS)
    # Lungs: median left 0.8 and right 0.7; then 0.6 and 0.9. Infection: 0.7; then 0.4, the undefined left out.
    assert table[:, COLUMNS.index(("lungs", "DSC"))] == pytest.approx([0.75, 0.75, 0.75])
    assert table[:, COLUMNS.index(("infection", "Spec"))] == pytest.approx([0.7, 0.4, 0.55])


def test_fold_without_any_defined_score_is_said() -> None:
    cases = [_case(name, 1.0, 1.0, math.nan if name in "de" else 0.5) for name in "abcde"]
    table = fold_table(cases, folds=FOLDS)
    assert math.isnan(table[1, 3]) and table[2, 3] == 0.5
    assert "n/a: undefined in every case of the fold" in table_sheet(table).to_text()


def test_scores_and_folds_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="fold_1: no scores for case 'e'"):
        fold_table(_five_cases()[:4], folds=FOLDS)
    with pytest.raises(InputError, match="'d' has scores, but is in no fold"):
        fold_table(_five_cases(), folds=FOLDS[:1])


def test_mean_and_median_over_all_cases_leave_out_what_is_undefined() -> None:
    infection = next(
        line for line in overall_scores(_five_cases()) if (line.region, line.score) == ("infection", "DSC")
    )
    assert (infection.defined, infection.undefined) == (4, ("d",))
    assert infection.mean.value == pytest.approx((0.8 + 0.0 + 0.7 + 0.4) / 4)
    assert infection.median.value == pytest.approx(0.55)
    lungs = next(line for line in overall_scores(_five_cases()) if (line.region, line.score) == ("lungs", "DSC"))
    assert lungs.mean.value == pytest.approx((0.8 + 0.85 + 0.65 + 0.7 + 0.8) / 5)


def test_bootstrap_interval_is_that_of_theory_and_repeats() -> None:
    values = np.random.default_rng(3).uniform(0.2, 0.8, 60)
    cases = [_case(f"c{n}", value, value, value) for n, value in enumerate(values)]
    mean = overall_scores(cases, seed=1)[1].mean
    half = 1.96 * values.std(ddof=1) / math.sqrt(60)
    assert mean.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert mean.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert overall_scores(cases, seed=1)[1].mean == mean != overall_scores(cases, seed=2)[1].mean


def test_bootstrap_interval_does_not_leave_the_scores() -> None:
    cases = [_case(f"c{n}", value, value, value) for n, value in enumerate([0.2, 0.99, 0.99, 0.99, 0.99])]
    line = overall_scores(cases)[1]
    assert line.median.low >= 0.2 and line.median.high <= 0.99 and line.mean.high <= 0.99


def test_one_case_has_no_interval() -> None:
    cases = _five_cases()[:1]
    assert "0.800 (no interval)" in overall_sheet(overall_scores(cases), cases=cases).to_text()


def test_undefined_and_lowest_cases_are_named() -> None:
    cases = _five_cases()
    text = overall_sheet(overall_scores(cases), cases=cases).to_text()
    assert "infection DSC: undefined (0/0) in 1 of 5 cases, left out: d" in text
    assert "Lowest infection DSC: 0.000, b." in text and "Lowest lungs DSC: 0.650, c." in text


def test_surface_dice_is_explained_with_its_tolerances_where_there_is_one() -> None:
    cases = [CaseScores(case.case, {**case.values, "NSD": dict(case.values["DSC"])}) for case in _five_cases()]
    note = "NSD: normalised surface Dice, within 1 mm lungs, 3 mm infection."
    assert note in overall_sheet(overall_scores(cases), cases=cases).notes
    assert note not in overall_sheet(overall_scores(_five_cases()), cases=_five_cases()).notes


def test_only_the_papers_own_table_gets_the_footnote() -> None:
    table = _papers_table()
    assert differing_from_paper(table) == []
    table[3, 5] = 0.9997
    assert differing_from_paper(table) == [(3, 5)]
    text = table_sheet(table).to_text()
    assert "1.000*: 0.9997 from these scores; the paper prints 0.999." in text and text.count("*") == 2
    table[0, 0] = 0.9
    assert differing_from_paper(table) == [] and "*" not in table_sheet(table).to_text()
    assert differing_from_paper(table[:5]) == []


def test_text_markdown_and_csv_hold_the_same_figures() -> None:
    sheet = table_sheet(fold_table(_five_cases(), folds=FOLDS))
    assert [line.split() for line in sheet.to_text().splitlines()[2:5]] == [list(row) for row in sheet.rows]
    assert "| AVG | 0.750 | 0.750 | 0.750 | 0.550 | 0.550 | 0.550 |" in sheet.to_markdown()
    rows = list(csv.reader(table_csv(fold_table(_five_cases(), folds=FOLDS)).splitlines()))
    assert rows[0][:2] == ["fold", "lungs_DSC"] and [row[0] for row in rows[1:]] == ["1", "2", "AVG"]
    assert float(rows[1][4]) == 0.7
    line, infection = list(csv.DictReader(overall_csv(overall_scores(_five_cases())).splitlines()))[:2]
    assert (infection["region"], infection["defined"], infection["undefined"]) == ("infection", "4", "1")
    assert (line["score"], line["region"], line["defined"], line["undefined"]) == ("DSC", "lungs", "5", "0")
    assert float(line["mean_low"]) <= float(line["mean"]) <= float(line["mean_high"])


@pytest.mark.realdata
def test_papers_table_falls_out_of_its_records(data_dir: Path) -> None:
    paper = data_dir / "muller20" / "paper"
    table = fold_table(
        read_scores(paper / "cv_results.detailed.csv"),
        folds=read_folds(paper / "folds.json"),
    )
    printed = paper_rows()
    equal = [f"{table[r, c]:.3f}" == printed[r][c] for r in range(6) for c in range(6)]
    assert sum(equal) == 35
    assert differing_from_paper(table) == [(3, COLUMNS.index(("infection", "Spec")))]
    assert table[3, 5] == pytest.approx(0.9997, abs=5e-5)


@pytest.mark.realdata
def test_papers_mean_over_all_cases_and_its_lost_case(data_dir: Path) -> None:
    cases = read_scores(data_dir / "muller20" / "paper" / "cv_results.detailed.csv")
    assert {case.case for case in cases} == {case for fold in original_folds() for case in fold.validation}
    dice = {line.region: line for line in overall_scores(cases) if line.score == "DSC"}
    assert dice["infection"].mean.value == pytest.approx(0.73, abs=0.005)
    assert dice["lungs"].mean.value == pytest.approx(0.94, abs=0.005)
    assert (
        "Lowest infection DSC: 0.002, radiopaedia_29_86490_1." in overall_sheet(list(dice.values()), cases=cases).notes
    )
