"""Starting again into a folder with results: what is kept, skipped, computed again, never deleted."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from CovidSegLib.cases import files as case_files
from fake_engine import write_ct, write_labels
from helpers_cli import CASE_FILES, one_line_errors, report_of, segment, summary, tree_without_times

pytestmark = pytest.mark.usefixtures("fake_engine")


def test_complete_case_is_skipped_untouched_and_still_in_the_summary(tmp_path: Path) -> None:
    cts = [write_ct(tmp_path / "a.nii.gz"), write_ct(tmp_path / "b.nii.gz", infected_slices=5)]
    assert segment(cts[0], "-o", tmp_path / "out") == 0
    before = (tmp_path / "out" / "a" / "report.json").stat().st_mtime_ns
    first = summary(tmp_path / "out")[0]
    assert segment(*cts, "-o", tmp_path / "out") == 0
    assert (tmp_path / "out" / "a" / "report.json").stat().st_mtime_ns == before
    rows = summary(tmp_path / "out")
    assert rows[0] == {**first, "status": "skipped"}
    assert rows[1]["status"] == "done"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("input", "the input has changed"),
        ("bundle", "the model has changed"),
        ("mode", "option mode has changed from accurate to fast"),
        ("file", "labelmap.nii.gz is missing"),
        ("preview", "preview.png is missing"),
        ("report", "report.json cannot be read"),
    ],
)
def test_case_is_computed_again_on_a_mismatch_and_the_log_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, reason: str
) -> None:
    ct, folder = write_ct(tmp_path / "a.nii.gz", infected_slices=3), tmp_path / "out" / "a"
    assert segment(ct, "-o", tmp_path / "out", *(["--no-preview"] if change == "preview" else [])) == 0
    extra = {"bundle": ["--bundle", "other"], "mode": ["--mode", "fast"]}.get(change, [])
    if change == "input":
        write_ct(ct, infected_slices=6)
    elif change == "file":
        (folder / "labelmap.nii.gz").unlink()
    elif change == "report":
        (folder / "report.json").write_text("{")
    capsys.readouterr()
    assert segment(ct, "-o", tmp_path / "out", *extra) == 0
    assert f"a: computing again: {reason}" in capsys.readouterr().out
    assert report_of(folder)["poi_percent"] == pytest.approx(60.0 if change == "input" else 30.0)
    assert segment(ct, "-o", tmp_path / "out", *extra) == 0
    assert summary(tmp_path / "out")[0]["status"] == "skipped"


@pytest.mark.parametrize(
    "broken",
    [
        "[" * 100_000,
        '"text"',
        {"poi_percent": "30"},
        {"severity": "CT-2"},
        {"warnings": 5},
        {"input": []},
    ],
)
def test_report_that_is_none_any_more_is_made_again_and_stops_no_other_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str | dict[str, object]
) -> None:
    cts = [write_ct(tmp_path / "a.nii.gz"), write_ct(tmp_path / "b.nii.gz", seed=1)]
    report = tmp_path / "out" / "a" / "report.json"
    assert segment(*cts, "-o", tmp_path / "out", "--no-preview") == 0
    whole = report_of(report.parent)
    report.write_text(broken if isinstance(broken, str) else json.dumps({**whole, **broken}))
    capsys.readouterr()
    assert segment(*cts, "-o", tmp_path / "out", "--no-preview") == 0
    assert "a: computing again: report.json cannot be read" in capsys.readouterr().out
    assert report_of(report.parent)["regions"] == whole["regions"]
    assert [row["status"] for row in summary(tmp_path / "out")] == ["done", "skipped"]


def test_no_preview_leaves_the_preview_out_and_accepts_a_case_that_has_one(tmp_path: Path) -> None:
    ct = write_ct(tmp_path / "a.nii.gz")
    assert segment(ct, "-o", tmp_path / "out", "--no-preview") == 0
    assert {path.name for path in (tmp_path / "out" / "a").iterdir()} == CASE_FILES - {"preview.png"}
    assert segment(ct, "-o", tmp_path / "out") == 0
    assert segment(ct, "-o", tmp_path / "out", "--no-preview") == 0
    assert summary(tmp_path / "out")[0]["status"] == "skipped"
    assert {path.name for path in (tmp_path / "out" / "a").iterdir()} == CASE_FILES


def test_overwrite_computes_again_and_ends_with_the_same_files(tmp_path: Path) -> None:
    ct = write_ct(tmp_path / "a.nii.gz")
    assert segment(ct, "-o", tmp_path / "out") == 0
    before = tree_without_times(tmp_path / "out")
    (tmp_path / "out" / "a" / "labelmap.nii.gz").write_bytes(b"spoilt")
    assert segment(ct, "-o", tmp_path / "out", "--overwrite") == 0
    assert summary(tmp_path / "out")[0]["status"] == "done"
    assert tree_without_times(tmp_path / "out") == before


def test_failed_overwrite_keeps_the_earlier_result_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ct = write_ct(tmp_path / "a.nii.gz")
    assert segment(ct, "-o", tmp_path / "out") == 0
    labelmap = (tmp_path / "out" / "a" / "labelmap.nii.gz").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(case_files, "write_report_json", full)
    assert segment(ct, "-o", tmp_path / "out", "--overwrite") == 1
    assert (tmp_path / "out" / "a" / "labelmap.nii.gz").read_bytes() == labelmap
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "summary.csv", "run.json"}
    (error,) = one_line_errors(capsys)
    assert "the disk is full" in error
    assert "still holds an earlier result" in error


def test_folder_with_files_of_the_user_is_never_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct = write_ct(tmp_path / "data" / "a" / "imaging.nii.gz")
    content = ct.read_bytes()
    assert segment(tmp_path / "data" / "a", "-o", tmp_path / "data") == 1
    assert segment(tmp_path / "data" / "a", "-o", tmp_path / "data", "--overwrite") == 1
    assert ct.read_bytes() == content
    assert all("holds other files ('imaging.nii.gz')" in line for line in one_line_errors(capsys))


def test_folder_that_never_was_a_result_is_not_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    write_ct(data / "a" / "imaging.nii.gz")
    (data / "a" / "report.json").write_text('{"by": "another program"}')
    (data / "b").mkdir()
    assert segment(data / "a", write_ct(tmp_path / "b.nii.gz"), "-o", data) == 1
    printed = capsys.readouterr()
    assert "computing again" not in printed.out
    assert "holds other files ('imaging.nii.gz')" in printed.err and "earlier result" not in printed.err
    assert [row["status"] for row in summary(data)] == ["failed", "done"]


def test_files_of_the_users_in_the_case_folder_survive_overwrite(tmp_path: Path) -> None:
    ct, folder = write_ct(tmp_path / "a.nii.gz"), tmp_path / "out" / "a"
    assert segment(ct, "-o", tmp_path / "out") == 0
    write_labels(folder / "corrected.seg.nrrd")
    (folder / "notes.txt").write_text("seen")
    for name in ("corrected.seg.nrrd", "notes.txt"):
        assert segment(ct, "-o", tmp_path / "out", "--mode", "fast") == 1
        assert segment(ct, "-o", tmp_path / "out", "--overwrite") == 1
        (folder / name).unlink()
    assert segment(ct, "-o", tmp_path / "out", "--overwrite") == 0


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct, out = write_ct(tmp_path / "a.nii.gz"), tmp_path / "out"
    assert segment(ct, "-o", out) == 0
    (out / "a").rename(out / ".a.old-0123456789ab")
    (out / ".a.partial-0123456789ab").mkdir()
    (out / ".other.partial-0123456789ab").mkdir()
    assert segment(ct, "-o", out) == 0
    assert summary(out)[0]["status"] == "skipped"
    assert {path.name for path in out.iterdir()} == {"a", "summary.csv", "run.json"}
    assert "an interrupted replacement was undone" in capsys.readouterr().out


def test_file_that_a_killed_quantify_left_in_the_case_is_not_taken_for_the_users(tmp_path: Path) -> None:
    ct, folder = write_ct(tmp_path / "a.nii.gz"), tmp_path / "out" / "a"
    assert segment(ct, "-o", tmp_path / "out", "--no-preview") == 0
    (folder / ".report.csv.partial-0123456789ab").write_text("half")
    assert segment(ct, "-o", tmp_path / "out", "--no-preview", "--mode", "fast") == 0
    assert {path.name for path in folder.iterdir()} == CASE_FILES - {"preview.png"}
