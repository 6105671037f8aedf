"""What a run prints while it goes on: the number of each case, how far it is, and how long it will take."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from CovidSegLib.cases.discovery import Case
from CovidSegLib.cases.one_case import Outcome, Status
from CovidSegLib.commands import console
from CovidSegLib.commands.console import ConsoleReporter
from CovidSegLib.progress import Progress
from fake_engine import write_ct
from helpers_cli import Terminal, segment


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def _run(clock: Clock, *, statuses: list[Status], seconds: list[float], total: int) -> ConsoleReporter:
    """Tell of cases, one after the other, that end so after so many seconds."""
    reporter = ConsoleReporter(out_dir=Path("out"), details=False)
    reporter.run_started(total=total, device="cpu", model="some 1.0")
    for number, (status, took_s) in enumerate(zip(statuses, seconds, strict=True)):
        case = Case(f"case{number}", Path(f"case{number}.nii.gz"))
        reporter.case_started(case)
        clock.now_s += took_s
        reporter.case_finished(case, Outcome(case=case.name, status=status))
    return reporter


def _told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines() if "left" in line]


def test_long_run_says_once_a_minute_how_long_it_will_go_on(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    _run(clock, statuses=[Status.DONE] * 5, seconds=[30.0] * 5, total=21)
    assert _told(capsys) == ["2 of 21 cases, about 10 min left", "4 of 21 cases, about 8 min left"]


def test_time_that_is_left_follows_from_the_cases_that_were_computed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = [Status.SKIPPED] * 10 + [Status.FAILED, Status.DONE]
    _run(clock, statuses=statuses, seconds=[0.0] * 10 + [60.0, 120.0], total=32)
    assert _told(capsys) == ["11 of 32 cases, about 21 min left", "12 of 32 cases, about 30 min left"]


@pytest.mark.parametrize(
    ("status", "took_s", "total"),
    [(Status.DONE, 59.0, 100), (Status.DONE, 90.0, 1), (Status.SKIPPED, 90.0, 100)],
)
def test_nothing_is_said_early_at_the_end_or_without_a_case_to_go_by(
    clock: Clock, capsys: pytest.CaptureFixture[str], status: Status, took_s: float, total: int
) -> None:
    _run(clock, statuses=[status], seconds=[took_s], total=total)
    assert _told(capsys) == []


@pytest.mark.usefixtures("fake_engine")
@pytest.mark.parametrize("workers", [1, 2])
def test_each_case_is_named_when_it_begins_and_keeps_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    for seed, name in enumerate("abc"):
        write_ct(tmp_path / "in" / f"{name}.nii.gz", seed=seed)
    assert segment(tmp_path / "in", "-o", tmp_path / "out", "--no-preview", "--workers", workers) == 0
    lines = capsys.readouterr().out.splitlines()
    for number, name in enumerate("abc", start=1):
        began = lines.index(f"[{number}/3] {name}: {tmp_path / 'in' / name}.nii.gz")
        (ended,) = (at for at, line in enumerate(lines) if line.startswith(f"[{number}/3] {name}: POI "))
        assert began < ended


@pytest.mark.usefixtures("fake_engine")
def test_bar_shows_how_many_cases_have_ended_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate("ab"):
        write_ct(tmp_path / "in" / f"{name}.nii.gz", seed=seed)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert segment(tmp_path / "in", "-o", tmp_path / "out", "--no-preview", "--workers", "2") == 0
    shown = [part for part in terminal.text.split("\r") if "under way" in part]
    assert [text for text, _ in itertools.groupby(part.split(",")[0] for part in shown)] == [
        "1 under way",
        "2 under way",
        "1 under way",
        "0 under way",
    ]
    assert "1/2" in terminal.text and "2/2" in terminal.text


def _tell(reporter: ConsoleReporter, *, case: str, steps: list[Progress]) -> None:
    """Tell of a case that begins and of its steps."""
    reporter.case_started(Case(case, Path(f"{case}.nii.gz")))
    for step in steps:
        reporter.case_progress(Case(case, Path(f"{case}.nii.gz")), step)


@pytest.mark.parametrize("details", [False, True])
def test_stages_are_told_with_verbose_alone_and_each_once(
    clock: Clock, capsys: pytest.CaptureFixture[str], *, details: bool
) -> None:
    reporter = ConsoleReporter(out_dir=Path("out"), details=details)
    for case in "ab":
        _tell(reporter, case=case, steps=[Progress("read", 0, 1), Progress("network", 0, 2), Progress("network", 1, 2)])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert lines == (["a: read 0/1", "a: network 0/2", "b: read 0/1", "b: network 0/2"] if details else [])
    clock.now_s += 15.5
    reporter.case_progress(Case("b", Path("b.nii.gz")), Progress("network", 2, 2))
    assert capsys.readouterr().out == "  b: network 2/2\n"


def test_message_of_a_step_is_told_once_in_each_case(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(out_dir=Path("out"), details=False)
    moved = Progress("network", 0, 2, "goes on on the CPU")
    for case in "ab":
        _tell(reporter, case=case, steps=[moved, moved, Progress("network", 1, 2), moved])
    lines = [line for line in capsys.readouterr().out.splitlines() if "goes on" in line]
    assert lines == ["  a: goes on on the CPU", "  b: goes on on the CPU"]


@pytest.mark.parametrize(("status", "said"), [(Status.DONE, ", 12.3 s"), (Status.SKIPPED, "")])
def test_seconds_of_another_run_are_not_told(
    clock: Clock, capsys: pytest.CaptureFixture[str], status: Status, said: str
) -> None:
    reporter = ConsoleReporter(out_dir=Path("out"), details=False)
    case = Case("a", Path("a.nii.gz"))
    reporter.case_started(case)
    report = {"poi_percent": 20.04, "severity": {"class": "CT-1"}, "runtime": {"seconds": 12.34}}
    reporter.case_finished(case, Outcome(case="a", status=status, report=report))
    assert f"POI 20.0 %, CT-1{said} -> {Path('out') / 'a'}\n" in capsys.readouterr().out
