from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from CovidSegLib.errors import InputError

from CovidSegTraining.experiment.case_scores import CLASSES, SCORES, CaseScores, read_scores, score_case, write_scores

HEADER = "index,score,background,lung_L,lung_R,infection\n"
COMPLETE = "".join(f"a,{score},1,1,1,0.5\n" for score in ("DSC", "IoU", "Sens", "Spec", "Prec", "Acc"))


def _bars(*, infection: int) -> np.ndarray:
    """Return ten slices of left lung and right lung, a part of the left one infected."""
    labels = np.zeros((10, 12, 12), dtype=np.uint8)
    labels[:, 2:10, 1:5] = 2
    labels[:, 2:10, 7:11] = 1
    labels[:infection, 2:10, 7:11] = 3
    return labels


def test_scores_of_known_overlap() -> None:
    # Infection: 4 slices in truth, 6 found, 32 voxels each; the left lung gives way to it.
    scores = score_case("x", truth_kji=_bars(infection=4), found_kji=_bars(infection=6), spacing_kji_mm=(5, 1, 1))
    infection = {score: row["infection"] for score, row in scores.values.items()}
    assert infection["DSC"] == pytest.approx(8 / 10)
    assert infection["IoU"] == pytest.approx(4 / 6)
    assert infection["Sens"] == 1.0
    assert infection["Spec"] == pytest.approx((1440 - 192) / (1440 - 128))
    assert infection["Prec"] == pytest.approx(4 / 6)
    assert infection["Acc"] == pytest.approx((1440 - 64) / 1440)
    assert scores.values["DSC"]["lung_L"] == pytest.approx(2 * 4 / (4 + 6))
    assert scores.values["DSC"]["lung_R"] == scores.values["NSD"]["lung_R"] == 1.0
    assert scores.values["DSC"]["background"] == 1.0 and math.isnan(scores.values["NSD"]["background"])
    assert tuple(scores.values) == SCORES and all(tuple(row) == tuple(CLASSES) for row in scores.values.values())


def test_surface_tolerance_is_3_mm_for_infection_and_1_mm_for_lungs() -> None:
    # The border between infection and lung is 2 mm off.
    scores = score_case("x", truth_kji=_bars(infection=4), found_kji=_bars(infection=5), spacing_kji_mm=(2, 1, 1))
    assert scores.values["NSD"]["infection"] == 1.0
    assert scores.values["NSD"]["lung_L"] < 1.0


@pytest.mark.parametrize(("step_mm", "is_near"), [(1.0, True), (1.05, False)])
@pytest.mark.parametrize(("label", "region", "slices"), [(1, "lung_L", 1), (2, "lung_R", 1), (3, "infection", 3)])
def test_surface_tolerance_is_met_by_what_is_just_as_far(
    label: int, region: str, slices: int, *, step_mm: float, is_near: bool
) -> None:
    truth, found = np.zeros((16, 12, 12), dtype=np.uint8), np.zeros((16, 12, 12), dtype=np.uint8)
    truth[4:10, 2:10, 2:10] = found[4 + slices : 10 + slices, 2:10, 2:10] = label
    scores = score_case("x", truth_kji=truth, found_kji=found, spacing_kji_mm=(step_mm, 1, 1))
    assert (scores.values["NSD"][region] == 1.0) == is_near


def test_voxels_not_valid_change_nothing() -> None:
    truth, found = _bars(infection=4), _bars(infection=4)
    found[8:] = 3
    counted = np.zeros(truth.shape, dtype=bool)
    counted[:8] = True
    scores = score_case("x", truth_kji=truth, found_kji=found, spacing_kji_mm=(1, 1, 1), counted_kji=counted)
    assert all(row[name] == 1.0 for row in scores.values.values() for name in ("lung_L", "lung_R", "infection"))


def test_class_that_is_nowhere_is_undefined() -> None:
    scores = score_case("x", truth_kji=_bars(infection=0), found_kji=_bars(infection=0), spacing_kji_mm=(1, 1, 1))
    undefined = {score for score, row in scores.values.items() if math.isnan(row["infection"])}
    assert undefined == {"DSC", "IoU", "Sens", "Prec", "NSD"}


def test_scores_are_read_as_written(tmp_path: Path) -> None:
    written = [
        score_case(name, truth_kji=_bars(infection=a), found_kji=_bars(infection=b), spacing_kji_mm=(1, 1, 1))
        for name, a, b in (("z", 4, 6), ("a", 0, 0), ("b", 4, 0))  # all right, undefined, and 0
    ]
    write_scores(tmp_path / "scores.csv", written)
    assert (tmp_path / "scores.csv").read_text().startswith(HEADER + "z,DSC,1.0,")
    read = read_scores(tmp_path / "scores.csv")
    assert [case.case for case in read] == ["z", "a", "b"]
    assert read[2].values["DSC"]["infection"] == 0.0
    for before, after in zip(written, read, strict=True):
        for score, row in before.values.items():
            np.testing.assert_equal(dict(after.values[score]), dict(row))


def test_papers_columns_suffice(tmp_path: Path) -> None:
    # As spreadsheets save it, and with an empty line.
    (tmp_path / "scores.csv").write_text(HEADER + COMPLETE + "\n", encoding="utf-8-sig")
    [case] = read_scores(tmp_path / "scores.csv")
    assert isinstance(case, CaseScores) and "NSD" not in case.values
    assert case.values["Sens"] == {"background": 1.0, "lung_L": 1.0, "lung_R": 1.0, "infection": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be 'index,score"),
        ("case;score\n", "first line must be"),
        (HEADER, "no scores below the header"),
        (HEADER + "a,DSC,1,1,1\n", "line 2: 5 values instead of 6"),
        (HEADER + "a,DSC,1,1,1,high\n", "line 2: 'high' is no number"),
        (HEADER + "a,DSC,1,1,1,76.1\n", "line 2: 76.1 is not between 0 and 1"),
        (HEADER + "a,DSC,1,1,1,-0.1\n", "line 2: -0.1 is not between 0 and 1"),
        (HEADER + "a,DSC,1,1,1,1\n", "case 'a' has no IoU"),
        (HEADER + "a,Dice,1,1,1,1\n", "line 2: unknown score 'Dice'; known are DSC"),
        (HEADER + COMPLETE + "a,DSC,1,1,1,1\n", "line 8: DSC of case 'a' for the second time"),
        (HEADER + COMPLETE + "b,DSC,1,1,1,1\n", "case 'b' has no IoU"),
        (HEADER + COMPLETE + COMPLETE.replace("a,", "b,") + "b,NSD,,1,1,1\n", "case 'a' has no NSD"),
    ],
)
def test_bad_tables_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / "scores.csv")


def test_missing_and_binary_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(tmp_path / "nothing.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no CSV file"):
        read_scores(tmp_path / "image.csv")
