from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from CovidSegLib.cases import files as case_files
from CovidSegLib.cases import workers
from CovidSegLib.cases.discovery import Case
from CovidSegLib.cases.one_case import CaseRunner, RunOptions
from CovidSegLib.errors import Cancelled
from CovidSegLib.segmentation_file import write_labelmap_nifti
from fake_engine import FAKE_ENGINE, GEOMETRY, FakeBundle, write_ct
from helpers_cli import CASE_FILES, one_line_errors, report_of, segment, summary, tree_without_times

pytestmark = pytest.mark.usefixtures("fake_engine")

COLUMNS = (
    "case,status,poi_percent,poi_left_percent,poi_right_percent,severity,lung_ml,infection_ml,seconds,device,message"
)


def test_case_folder_holds_the_files_of_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import SimpleITK

    ct = write_ct(tmp_path / "my ct.nii.gz", infected_slices=3)
    assert segment(ct, "-o", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"my ct", "summary.csv", "run.json"}
    folder = tmp_path / "out" / "my ct"
    assert {path.name for path in folder.iterdir()} == CASE_FILES
    labelmap = SimpleITK.ReadImage(str(folder / "labelmap.nii.gz"))
    assert labelmap.GetPixelID() == SimpleITK.sitkUInt8
    assert labelmap.GetSize() == GEOMETRY.size_ijk
    assert np.allclose(labelmap.GetOrigin(), GEOMETRY.origin_lps_mm)
    assert np.bincount(SimpleITK.GetArrayFromImage(labelmap).ravel())[1:].tolist() == [7 * 84, 7 * 84, 6 * 84]
    report = report_of(folder)
    assert report["case"] == "my ct"
    assert report["poi_percent"] == pytest.approx(30.0)
    assert report["runtime"]["options"] == {"mode": "accurate", "device": "auto"}
    printed = capsys.readouterr()
    assert "POI 30.0 %" in printed.out
    assert printed.out.endswith("not for clinical use.\n")
    assert printed.err == ""


def test_summary_and_run_record_hold_every_case_and_how_it_was_run(tmp_path: Path) -> None:
    cts = [
        write_ct(tmp_path / name, infected_slices=n) for name, n in (("a.nii", 0), ("b.mha", 5), ("nolungs.nrrd", 1))
    ]
    assert segment(*cts, "-o", tmp_path / "out", "--mode", "fast") == 1
    rows = summary(tmp_path / "out")
    assert (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8").splitlines()[0] == COLUMNS
    assert [(row["case"], row["status"], row["severity"]) for row in rows] == [
        ("a", "done", "CT-0"),
        ("b", "done", "CT-2"),
        ("nolungs", "failed", ""),
    ]
    assert [float(rows[1][key]) for key in ("poi_percent", "poi_left_percent", "lung_ml", "infection_ml")] == [
        pytest.approx(50.0),
        pytest.approx(50.0),
        pytest.approx(20 * 84 * 0.02),
        pytest.approx(10 * 84 * 0.02),
    ]
    assert rows[1]["device"] == "cpu"
    assert "no lungs found: is this a chest CT in HU?" in rows[2]["message"]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["model"] == FakeBundle().to_dict()
    assert run["device"] == "cpu"
    assert run["options"]["mode"] == "fast"
    assert {"covidseg", "python", "numpy", "torch", "simpleitk", "monai"} <= set(run["versions"])


def test_summary_names_a_missing_lung_as_undefined_not_zero(tmp_path: Path) -> None:
    import SimpleITK
    from fake_engine import tiny_ct

    hu = tiny_ct()
    hu[:, :, 12:] = np.random.default_rng(1).integers(20, 60, hu[:, :, 12:].shape)
    SimpleITK.WriteImage(GEOMETRY.to_sitk(hu), str(tmp_path / "one.nii.gz"))
    assert segment(tmp_path / "one.nii.gz", "-o", tmp_path / "out") == 0
    row = summary(tmp_path / "out")[0]
    assert row["poi_left_percent"] == ""
    assert float(row["poi_right_percent"]) == pytest.approx(30.0)
    assert report_of(tmp_path / "out" / "one")["regions"]["left_lung"]["poi_percent"] is None


def test_one_bad_case_never_stops_the_rest_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for name in ("a.nii.gz", "bug.nii.gz", "memory.nii.gz", "nolungs.nii.gz", "z.nii.gz"):
        write_ct(data / name)
    (data / "corrupt.nii.gz").write_bytes((data / "a.nii.gz").read_bytes()[:500])
    assert segment(data, "-o", tmp_path / "out") == 1
    assert {row["case"]: row["status"] for row in summary(tmp_path / "out")} == {
        "a": "done",
        "bug": "failed",
        "corrupt": "failed",
        "memory": "failed",
        "nolungs": "failed",
        "z": "done",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "z", "summary.csv", "run.json"}
    errors = one_line_errors(capsys)
    assert len(errors) == 4
    assert "unexpected ValueError: index out of range" in errors[0]
    assert "not enough memory" in errors[2]


def test_traceback_comes_only_with_verbose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct = write_ct(tmp_path / "bug.nii.gz")
    assert segment(ct, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "report it with its details); --verbose prints the details" in error
    assert "Traceback" not in error
    assert segment(ct, "-o", tmp_path / "out", "--verbose") == 1
    error = capsys.readouterr().err
    assert "--verbose prints" not in error
    assert "Traceback (most recent call last)" in error


@pytest.mark.parametrize("name", ["memory", "nolungs"])
def test_failure_that_its_message_explains_asks_for_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert segment(write_ct(tmp_path / f"{name}.nii.gz"), "-o", tmp_path / "out") == 1
    (error,) = one_line_errors(capsys)
    assert "prints the details" not in error
    assert "fault in CovidSeg" not in error


def test_fault_in_a_worker_process_is_known_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bug", "nolungs"):
        write_ct(tmp_path / "in" / f"{name}.nii.gz")
    assert segment(tmp_path / "in", "-o", tmp_path / "out", "--workers", "2") == 1
    assert ["--verbose prints the details" in error for error in sorted(one_line_errors(capsys))] == [True, False]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/a/report.json"),
            "no permission for 'out/a/report.json'",
        ),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (RuntimeError("ITK ERROR: PNGImageIO(0x1): Error. Reason: No space left on device"), "the disk is full"),
    ],
)
def test_error_while_writing_fails_the_case_and_leaves_no_half(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(case_files, "write_preview_png", fail)
    assert segment(write_ct(tmp_path / "a.nii.gz"), "-o", tmp_path / "out") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summary.csv", "run.json"}
    (line,) = one_line_errors(capsys)
    assert words in line


def test_equal_names_get_numbered_folders(tmp_path: Path) -> None:
    for number, folder in enumerate(("x", "y", "z")):
        write_ct(tmp_path / folder / "ct.nii.gz", infected_slices=number)
    assert segment(tmp_path / "x", tmp_path / "y", tmp_path / "z", "-o", tmp_path / "out") == 0
    rows = summary(tmp_path / "out")
    assert [(row["case"], float(row["poi_percent"])) for row in rows] == [("ct", 0.0), ("ct-2", 10.0), ("ct-3", 20.0)]
    assert report_of(tmp_path / "out" / "ct-3")["case"] == "ct-3"


def test_odd_names_go_through(tmp_path: Path) -> None:
    cases = {name: name for name in ("-dash", "größe 日本", "a'b;c&d")}
    if os.name != "nt":  # Windows has no such file
        cases["CON"] = "CON_"
    for number, name in enumerate(cases):
        write_ct(tmp_path / "in" / f"{name}.nii.gz", seed=number)
    assert segment(tmp_path / "in", "-o", tmp_path / "out dir ü") == 0
    assert {row["case"] for row in summary(tmp_path / "out dir ü")} == set(cases.values())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_name_that_is_no_text_fails_its_case_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_ct(tmp_path / "good.nii.gz")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nrrd"))
    write_ct(tmp_path / "plain.nrrd").rename(odd)
    assert segment(odd, good, "-o", tmp_path / "out") == 1
    assert [(row["case"], row["status"]) for row in summary(tmp_path / "out")] == [("caf_", "failed"), ("good", "done")]
    assert "rename it" in one_line_errors(capsys)[0]


def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    for number in range(3):
        write_ct(tmp_path / "in" / f"ct{number}.nii.gz", infected_slices=number + 1)
    assert segment(tmp_path / "in", "-o", tmp_path / "one") == 0
    assert segment(tmp_path / "in", "-o", tmp_path / "two", "--workers", "2") == 0
    assert tree_without_times(tmp_path / "two") == tree_without_times(tmp_path / "one")


def test_process_that_dies_fails_its_case_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "bug", "dies", "z"):
        write_ct(tmp_path / "in" / f"{name}.nii.gz")
    assert segment(tmp_path / "in", "-o", tmp_path / "out", "--workers", "2") == 1
    statuses = {row["case"]: row["status"] for row in summary(tmp_path / "out")}
    assert statuses == {"a": "done", "bug": "failed", "dies": "failed", "z": "done"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "z", "summary.csv", "run.json"}
    assert any("the process working on it ended (code 9)" in line for line in one_line_errors(capsys))


@pytest.mark.skipif(os.name == "nt", reason="does what Windows does by itself")
def test_process_whose_end_of_the_connection_stays_open_after_its_death_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dies", "z"):
        write_ct(tmp_path / "in" / f"{name}.nii.gz")
    monkeypatch.setattr(workers, "_LOOK_EVERY_S", 0.1)
    context = multiprocessing.get_context("spawn")
    pipe, kept = context.Pipe, []

    def with_a_copy_kept() -> Any:  # Windows keeps one for a child until it takes it
        ours, theirs = pipe()
        kept.append(os.dup(theirs.fileno()))
        return ours, theirs

    monkeypatch.setattr(context, "Pipe", with_a_copy_kept)
    assert segment(tmp_path / "in", "-o", tmp_path / "out", "--workers", "2") == 1
    assert {row["case"]: row["status"] for row in summary(tmp_path / "out")} == {"dies": "failed", "z": "done"}
    for file in kept:
        os.close(file)


@pytest.mark.parametrize(("platform", "started"), [("linux", 70), ("win32", 60)])
def test_no_more_workers_are_started_than_windows_can_wait_for(
    monkeypatch: pytest.MonkeyPatch, platform: str, started: int
) -> None:
    crew: list[int] = []

    def start(_runner: CaseRunner, *, workers: int) -> Any:
        crew.append(workers)
        return SimpleNamespace(case=None, connection=SimpleNamespace(send=lambda case: None))

    def collected(_crew: object) -> Iterator[Any]:
        raise Cancelled("enough was seen")

    monkeypatch.setattr(sys, "platform", platform)
    for name, stub in (("_start_worker", start), ("_collect", collected), ("_end", len)):
        monkeypatch.setattr(workers, name, stub)
    cases = [Case(str(number), Path("ct.nii.gz")) for number in range(80)]
    with pytest.raises(Cancelled):
        list(workers.run_in_workers(cases, runner=CaseRunner(RunOptions(Path("out")), FAKE_ENGINE), workers=70))
    assert crew == [started] * started


@pytest.mark.parametrize(
    ("free_bytes", "words"),
    [(0, "the disk is full: free some space"), (1 << 30, "the system cut short what was written to '{file}'")],
)
def test_labelmap_cut_short_on_writing_fails_the_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, free_bytes: int, words: str
) -> None:
    def cut_short(path: Path, **options: Any) -> None:
        write_labelmap_nifti(path, **options)
        os.truncate(path, path.stat().st_size // 2)  # what ITK leaves, without a word

    monkeypatch.setattr(case_files, "write_labelmap_nifti", cut_short)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free_bytes))
    assert segment(write_ct(tmp_path / "a.nii.gz"), "-o", tmp_path / "out") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summary.csv", "run.json"}
    (error,) = one_line_errors(capsys)
    file = tmp_path / "out" / "a" / "labelmap.nii.gz"
    assert words.format(file=file) in error and str(file) in error
