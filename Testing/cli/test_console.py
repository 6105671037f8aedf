"""What a run prints while it goes on: the number of each case, how far it is, and how long it will take."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from CovidSegLib.cases.discovery import Case
from CovidSegLib.cases.run import Outcome, Status
from CovidSegLib.commands import console
from CovidSegLib.commands.console import ConsoleReporter
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
