"""A file that cannot be written, or not whole, is named as the user knows it, and nothing half-written stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from CovidSegLib.cases import files as case_files
from CovidSegLib.cases import summary
from CovidSegLib.cases.folder import new_case_folder, new_file
from CovidSegLib.cli import main
from CovidSegLib.commands import demo as demo_command
from fake_engine import write_ct
from helpers_cli import CLI_DIR, ROOT, one_line_errors, segment

pytestmark = pytest.mark.usefixtures("fake_engine")
FULL = errno.ENOSPC, os.strerror(errno.ENOSPC)
_WRITERS = {
    "labelmap.nii.gz": "write_labelmap_nifti",
    "segmentation.seg.nrrd": "write_seg_nrrd",
    "preview.png": "write_preview_png",
    "report.csv": "write_report_csv",
    "report.json": "write_report_json",
}


def _full(*_: object, **__: object) -> None:
    raise OSError(*FULL)  # as writing says it, which unlike opening names no file


@pytest.mark.parametrize("name", _WRITERS)
def test_file_of_a_case_that_a_full_disk_stops_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(case_files, _WRITERS[name], _full)
    assert segment(write_ct(tmp_path / "a.nii.gz"), "-o", tmp_path / "out") == 1
    (error,) = one_line_errors(capsys)
    assert f"the disk is full: free some space and run it again ('{tmp_path / 'out' / 'a' / name}' cannot" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summary.csv", "run.json"}


def test_file_whose_bytes_do_not_reach_the_disk_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _full)
    assert segment(write_ct(tmp_path / "a.nii.gz"), "-o", tmp_path / "out") == 1
    assert f"('{tmp_path / 'out' / 'a'}{os.sep}" in one_line_errors(capsys)[0]


def test_summary_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary.csv.DictWriter, "writeheader", _full)
    assert segment(write_ct(tmp_path / "a.nii.gz"), "-o", tmp_path / "out") == 1
    assert f"('{tmp_path / 'out' / 'summary.csv'}' cannot be written" in one_line_errors(capsys)[0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "run.json"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("limit_bytes", "name"), [(64, "labelmap.nii.gz"), (1500, "segmentation.seg.nrrd"), (6000, "preview.png")]
)
def test_file_beyond_the_limit_of_a_files_size_is_named(tmp_path: Path, limit_bytes: int, name: str) -> None:
    write_ct(tmp_path / "a.nii.gz")
    limited = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, resource.RLIM_INFINITY))\n"
        f"sys.argv = ['covidseg', 'segment', 'a.nii.gz', '-o', 'out']\n"
        f"runpy.run_path({str(CLI_DIR / 'fake_covidseg.py')!r}, run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", limited],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "CovidSeg"), str(CLI_DIR)))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    error = run.stderr.splitlines()[0]
    assert f"'{Path('out', 'a', name)}': check the disk and the path, then run it again" in error
    assert "disk is full" not in error and "Reason" not in error
    assert not (tmp_path / "out" / "a").exists()


def test_demo_ct_that_is_cut_short_on_writing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = case_files.check_written_whole

    def cut_short(path: Path, *, voxel_bytes: int) -> None:
        os.truncate(path, path.stat().st_size // 2)  # what ITK leaves, without a word
        replace(path, voxel_bytes=voxel_bytes)

    monkeypatch.setattr(case_files, "check_written_whole", cut_short)
    assert main(["demo", "-o", str(tmp_path / "out")]) == 1
    assert f"'{tmp_path / 'out' / demo_command._CT_FILE}'" in one_line_errors(capsys)[0]
    assert list((tmp_path / "out").iterdir()) == []


def test_errors_name_what_will_stand_there_not_what_was_written_aside(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a\.txt") as caught, new_case_folder(tmp_path / "case") as partial:
        (partial / "no folder" / "a.txt").open("w")
    assert caught.value.filename == str(tmp_path / "case" / "no folder" / "a.txt")
    for said, named in ((FULL, str(tmp_path / "case")), ((*FULL, "elsewhere"), "elsewhere"), (("in words",), None)):
        for new in (new_case_folder, new_file):
            with pytest.raises(OSError) as caught, new(tmp_path / "case"):
                raise OSError(*said)
            assert caught.value.filename == named
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("below", [".", "deep/down"])
def test_output_that_is_a_link_to_nothing_is_refused_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert segment(write_ct(tmp_path / "a.nii.gz"), "-o", tmp_path / "link" / below) == 2
    (error,) = one_line_errors(capsys)
    assert f"the output folder cannot be made: '{tmp_path / 'link'}' is a link to nothing. Mend the link, or" in error
    (tmp_path / "nowhere").mkdir()
    assert segment(tmp_path / "a.nii.gz", "-o", tmp_path / "link" / below) == 0
