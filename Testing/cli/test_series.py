"""Several DICOM series in one folder: which is taken, and how the user takes another."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_engine import tiny_ct
from helpers_cli import one_line_errors, report_of, segment, summary
from helpers_ct_files import write_series

pytestmark = pytest.mark.usefixtures("fake_engine")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two series of one study: 12 slices with infection in 3 of 10 lung slices, and 10 with less lung."""
    folder = tmp_path / "study"
    write_series(folder / "1", tiny_ct(infected_slices=3), number=1, SeriesDescription="Lung 2.0")
    write_series(folder / "2", tiny_ct(infected_slices=6)[:10], number=2, SeriesDescription="Soft 2.0")
    return folder


def test_series_with_most_slices_is_taken_and_named(study: Path, tmp_path: Path) -> None:
    assert segment(study, "-o", tmp_path / "out") == 0
    report = report_of(tmp_path / "out" / "study")
    assert report["geometry"]["size_ijk"][2] == 12
    assert any("Lung 2.0" in warning for warning in report["warnings"])


def test_user_chooses_another_series_and_the_case_is_computed_again(study: Path, tmp_path: Path) -> None:
    assert segment(study, "-o", tmp_path / "out") == 0
    assert segment(study, "-o", tmp_path / "out", "--series", "soft") == 0
    assert report_of(tmp_path / "out" / "study")["geometry"]["size_ijk"][2] == 10
    assert segment(study, "-o", tmp_path / "out", "--series", "soft") == 0
    assert summary(tmp_path / "out")[0]["status"] == "skipped"
    assert segment(study, "-o", tmp_path / "out") == 0
    assert summary(tmp_path / "out")[0]["status"] == "done"


def test_unknown_series_fails_and_lists_what_is_there(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(study, "-o", tmp_path / "out", "--series", "7") == 1
    (error,) = [line for line in one_line_errors(capsys) if "study" in line]
    assert "Lung 2.0" in error and "Soft 2.0" in error
    assert not (tmp_path / "out" / "study").exists()
