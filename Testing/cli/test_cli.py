"""Arguments, exit codes and messages of `covidseg`; what the cases come to is in test_segment."""

from __future__ import annotations

import errno
import locale
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from CovidSegLib.cases import workers
from CovidSegLib.cases.one_case import CaseRunner, RunOptions
from CovidSegLib.cli import main
from CovidSegLib.commands import console
from fake_engine import FAKE_ENGINE, write_ct
from helpers_cli import ROOT, Terminal, segment, start_process, summary

pytestmark = pytest.mark.usefixtures("fake_engine")


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("covidseg: error: ")
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["segment"],
        ["segment", "ct.nii.gz"],
        ["segment", "-o", "out"],
        ["segment", "ct.nii.gz", "-o", "out", "--mode", "slow"],
        ["segment", "ct.nii.gz", "-o", "out", "--device", "tpu"],
        ["segment", "ct.nii.gz", "-o", "out", "--device", "cuda:x"],
        ["segment", "ct.nii.gz", "-o", "out", "--workers", "0"],
        ["segment", "ct.nii.gz", "-o", "out", "--over"],
        ["segment", "missing.nii.gz", "-o", "out"],
        ["segment", "", "-o", "out"],
        ["segment", "ct.nii.gz", "-o", ""],
        ["demo", "-o", ""],
        ["info", "--bundle", ""],
        ["quantify", "", "missing.seg.nrrd"],
        ["quantify", "missing.nii.gz", "missing.seg.nrrd"],
        ["quantify", "missing.nii.gz"],
    ],
)
def test_usage_error_is_exit_2_and_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--over" not in arguments:
        assert not list(tmp_path.iterdir())
    assert main(arguments) == 2
    _error(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "option"), [("segment", "--mod"), ("quantify", "--serie"), ("demo", "--modes")])
def test_misspelt_option_points_to_the_help_that_lists_it(
    capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    given = {"segment": ["ct.nii.gz", "-o", "out"], "quantify": ["ct.nii.gz", "s.seg.nrrd"], "demo": []}[command]
    assert main([command, *given, option, "fast"]) == 2
    assert capsys.readouterr().err == (
        f"covidseg: error: unrecognized arguments: {option} fast: see 'covidseg {command} --help'\n"
    )


@pytest.mark.parametrize("option", ["--dicom", "--cluster", "--with-identity", "--dicom=seg"])
def test_reserved_option_is_refused_by_name(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct = write_ct(tmp_path / "ct.nii.gz")
    assert segment(ct, "-o", tmp_path / "out", option) == 2
    assert f"option {option.split('=')[0]} is reserved for a later version" in _error(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["summary", "watch"])
def test_reserved_command_is_refused_by_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "out"]) == 2
    assert f"'covidseg {command}' is reserved for a later version" in _error(capsys)


def test_absent_device_is_a_usage_error_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ct = write_ct(tmp_path / "ct.nii.gz")
    assert segment(ct, "-o", tmp_path / "out", "--device", "cuda:7") == 2
    assert "device 'cuda:7' was asked for" in _error(capsys)
    assert not (tmp_path / "out").exists()


def test_one_missing_input_stops_the_run_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct = write_ct(tmp_path / "ct.nii.gz")
    assert segment(ct, tmp_path / "gone", "-o", tmp_path / "out") == 2
    assert f"input '{tmp_path / 'gone'}' does not exist: check the path." in _error(capsys)
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct = write_ct(tmp_path / "ct.nii.gz")
    (tmp_path / "out").write_text("mine")
    assert segment(ct, "-o", tmp_path / "out") == 2
    assert "is a file: give an output folder (-o OUT)" in _error(capsys)
    assert (tmp_path / "out").read_text() == "mine"


def test_fault_outside_the_cases_is_one_line_that_says_how_to_report_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("CovidSegLib.cli._info", lambda _options: 1 / 0)
    assert main(["info"]) == 1
    error = _error(capsys)
    assert "unexpected ZeroDivisionError: division by zero (a fault in CovidSeg: report it with its details)" in error
    assert error.endswith("; --verbose prints the details")


def test_output_without_permission_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    ct = write_ct(tmp_path / "ct.nii.gz")
    monkeypatch.setattr(Path, "touch", refuse)  # root, as whom tests often run, may write everywhere
    assert segment(ct, "-o", tmp_path / "out") == 2
    assert "the output folder cannot be written: no permission for" in _error(capsys)


def test_leading_dash_needs_two_dashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_ct(tmp_path / "-odd.nii.gz")
    assert segment("-o", "out", "--", "-odd.nii.gz") == 0
    assert summary(tmp_path / "out")[0]["case"] == "-odd"


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["demo", "--help"], ["--version"]])
def test_help_is_instant_and_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom CovidSegLib.cli import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'torch', 'monai', 'SimpleITK', 'scipy', 'numpy', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    started_s = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "CovidSeg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert time.perf_counter() - started_s < 3.0  # a tenth of it on an idle machine
    if "--version" not in arguments:
        assert "not a medical device" in " ".join(run.stdout.split())


def test_segment_help_names_every_option_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("-o", "--mode", "--device", "--bundle", "--overwrite", "--workers", "--no-preview", "--verbose"):
        assert option in text


def test_bar_on_a_terminal_and_plain_lines_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ct = write_ct(tmp_path / "slow.nii.gz")
    assert segment(ct, "-o", tmp_path / "plain") == 0
    plain = capsys.readouterr()
    assert "\r" not in plain.out + plain.err
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert segment(ct, "-o", tmp_path / "bar") == 0
    assert "[1/1] slow: network" in terminal.text
    assert "|" in terminal.text


def test_stream_that_cannot_show_a_name_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as log:
        monkeypatch.setattr(sys, "stdout", log)
        assert segment(write_ct(tmp_path / "größe.nii.gz"), "-o", tmp_path / "out") == 0
    assert "gr\\xf6\\xdfe" in (tmp_path / "log").read_text(encoding="ascii")


def test_reader_of_the_output_who_goes_away_does_not_stop_the_run(tmp_path: Path) -> None:
    cts = [write_ct(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    with start_process(*cts, "-o", tmp_path / "out") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as `| head` does
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert [row["status"] for row in summary(tmp_path / "out")] == ["done", "done"]


class _ClosedPipe:
    """What is printed into on Windows when nobody reads any more."""

    encoding = "utf-8"

    def __init__(self, file: int) -> None:
        self._file = file

    def write(self, _text: str) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return self._file


def test_reader_who_goes_away_on_windows_does_not_stop_the_run_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as log:
        stream: Any = _ClosedPipe(log.fileno())
        monkeypatch.setattr(sys, "platform", "linux")
        with pytest.raises(OSError, match="Invalid argument"):
            console.print_line("a", stream=stream)
        monkeypatch.setattr(sys, "platform", "win32")
        console.print_line("a", stream=stream)
        os.write(log.fileno(), b"b")  # what follows goes nowhere
    assert (tmp_path / "log").read_bytes() == b""


def test_paths_of_any_letters_are_opened_on_windows_by_the_command_and_its_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen: list[tuple[int, str]] = []
    monkeypatch.setattr(locale, "setlocale", lambda category, name: chosen.append((category, name)))
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["--version"]) == 0
    assert chosen == []
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["--version"]) == 0
    assert chosen == [(locale.LC_CTYPE, ".UTF-8")]  # not all of it: numbers keep their decimal point
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    no_case: Any = SimpleNamespace(recv=lambda: None)
    workers._work(connection=no_case, runner=CaseRunner(RunOptions(Path("out")), FAKE_ENGINE), threads=1)
    assert len(chosen) == 2
    capsys.readouterr()
