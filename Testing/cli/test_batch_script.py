"""The script for `Slicer --python-script`, run here by plain Python and by a stand-in for the application."""

from __future__ import annotations

import os
import runpy
import sys
import types
from pathlib import Path

import pytest
from CovidSegLib import dependencies
from fake_engine import write_ct
from helpers_cli import CASE_FILES, ROOT, summary

SCRIPT = ROOT / "CovidSeg" / "Scripts" / "covidseg_batch.py"

pytestmark = pytest.mark.usefixtures("fake_engine")


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    monkeypatch.setitem(sys.modules, "slicer", None)  # as if not installed
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize("dashes", [["--"], []])
def test_script_gives_what_the_command_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dashes: list[str]
) -> None:
    ct = write_ct(tmp_path / "my ct.nii.gz")
    assert _run(monkeypatch, *dashes, ct, "-o", tmp_path / "out", "--mode", "fast") == 0
    assert {path.name for path in (tmp_path / "out" / "my ct").iterdir()} == CASE_FILES
    assert summary(tmp_path / "out")[0]["status"] == "done"


def test_script_has_the_exit_codes_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(monkeypatch, "--", tmp_path / "gone.nii.gz", "-o", tmp_path / "out") == 2
    assert _run(monkeypatch, "--", write_ct(tmp_path / "bug.nii.gz"), "-o", tmp_path / "out") == 1


def test_script_says_once_what_is_not_installed_and_starts_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dependencies, "_installed", lambda _name: None)
    cases = [write_ct(tmp_path / f"ct{number}.nii.gz") for number in (1, 2)]
    assert _run(monkeypatch, "--", *cases, "-o", tmp_path / "out") == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("covidseg: error: torch, monai, safetensors, tqdm: not installed")
    assert said.endswith("Open the module CovidSeg, press Segment once and agree.")
    assert not (tmp_path / "out").exists()


def test_script_helps_also_where_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dependencies, "_installed", lambda _name: None)
    assert _run(monkeypatch, "--", "--help") == 0
    assert "covidseg segment" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["gone.nii.gz", "ct.nii.gz"])
def test_script_leaves_through_slicer_inside_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    codes: list[int] = []
    slicer = types.ModuleType("slicer")
    slicer.app = object()  # type: ignore[attr-defined]
    slicer.util = types.SimpleNamespace(exit=codes.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    write_ct(tmp_path / "ct.nii.gz")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--", str(tmp_path / file), "-o", str(tmp_path / "out")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert codes == [0 if file == "ct.nii.gz" else 2]


def test_script_finds_its_library_from_any_folder(tmp_path: Path) -> None:
    import subprocess

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0
    assert "covidseg segment" in run.stdout
