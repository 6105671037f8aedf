"""Several DICOM series in one folder: which is taken, and how the user takes another."""

from __future__ import annotations

from pathlib import Path

import pytest
from CovidSegLib.cli import main
from fake_engine import tiny_ct
from helpers_cli import one_line_errors, report_of, segment, summary
from helpers_ct_files import write_series
from helpers_multi_frame import write_enhanced

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


def test_figures_are_those_of_the_series_that_was_segmented(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(study, "-o", out, "--series", "soft") == 0
    before = report_of(out / "study")
    quantify = ["quantify", str(study), str(out / "study" / "segmentation.seg.nrrd"), "-o", str(out / "study")]
    assert main(quantify) == 1  # the series of 12 slices is read, whose grid holds that of 10 slices
    assert "is the report of series '2: Soft 2.0'" in one_line_errors(capsys)[-1]
    assert report_of(out / "study") == before
    assert main([*quantify, "--series", "2"]) == 0
    assert report_of(out / "study")["regions"] == before["regions"]
    assert report_of(out / "study")["input"] == before["input"]


def test_multi_frame_file_has_the_labelmap_of_its_slices(tmp_path: Path) -> None:
    files = write_series(tmp_path / "slices", tiny_ct(infected_slices=3))
    frames = write_enhanced(tmp_path / "frames.dcm", files[::-1])
    out = tmp_path / "out"
    assert segment(tmp_path / "slices", frames, "-o", out) == 0
    labelmaps = [(out / case / "labelmap.nii.gz").read_bytes() for case in ("slices", "frames")]
    assert labelmaps[0] == labelmaps[1]
    assert report_of(out / "frames")["input"]["series"] == "3: Chest 2.0 soft"
    assert not any(
        b"secret" in file.read_bytes().lower() for file in out.rglob("*") if file.suffix in (".json", ".csv")
    )
