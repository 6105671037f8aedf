"""How far a run is, and how long it takes: known by hand."""

from __future__ import annotations

import pytest
from CovidSegLib.panel.progress import PERMILLE, RunClock
from CovidSegLib.progress import Progress


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_time_left_is_what_the_patches_to_come_take_after_the_first() -> None:
    now = HandClock()
    clock = RunClock(now_s=now)
    left = []
    for done, passed_s in ((0, 0.0), (1, 9.0), (2, 2.0), (3, 2.0), (5, 4.0)):  # the first is slow: it warms up
        now.now_s += passed_s
        left.append(clock.update(Progress("network", done, 10)).left_s)
    assert left[:2] == [None, None]
    assert left[2:] == pytest.approx([2.0 * 8, 2.0 * 7, 2.0 * 5])
    assert clock.elapsed_s == pytest.approx(17.0)


def test_time_left_starts_anew_after_a_change_of_device() -> None:
    now = HandClock()
    clock = RunClock(now_s=now)
    for done in range(4):
        clock.update(Progress("network", done, 10))
        now.now_s += 1.0
    assert clock.update(Progress("network", 0, 1, "out of memory on cuda: continuing on cpu")).left_s is None
    standings = []
    for done in range(3):
        standings.append(clock.update(Progress("network", done, 4)))
        now.now_s += 10.0
    assert [standing.left_s for standing in standings] == [None, None, pytest.approx(20.0)]


def test_bar_never_goes_back_and_ends_at_the_end() -> None:
    clock = RunClock()
    steps = [Progress("read", 0, 1), Progress("preprocess", 0, 1), *(Progress("network", n, 7) for n in range(8))]
    steps += [Progress("back", 0, 1), Progress("quantify", 0, 1), Progress("write", 1, 1)]
    marks = [clock.update(step).permille for step in steps]
    assert marks == sorted(marks)
    assert marks[0] == 0
    assert marks[-1] == PERMILLE


def test_stage_without_parts_is_no_division_by_zero() -> None:
    standing = RunClock().update(Progress("network", 0, 0))
    assert (standing.permille, standing.left_s) == (80, None)
