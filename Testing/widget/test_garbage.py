"""What is freed while the worker computes is freed on the main thread, and Python ends only after the worker."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.garbage import MainThreadGarbage
from CovidSegLib.runner import Handlers, Runner
from helpers_runner import HandTimer, poll_until_over


class Cycle:
    """Garbage that only a collection frees; notes the thread on which it was."""

    def __init__(self, freed_on: list[str]) -> None:
        self._freed_on, self._itself = freed_on, self

    def __del__(self) -> None:
        self._freed_on.append(threading.current_thread().name)


@pytest.fixture(autouse=True)
def automatic() -> Iterator[None]:
    """Collections as Python starts with them, before and after each test."""
    gc.collect()
    assert gc.isenabled()
    yield
    assert gc.isenabled(), "left switched off"


def allocate_much(*, progress: Any, cancelled: Any) -> int:
    """Make as many objects as set off a hundred collections."""
    return len([[] for _ in range(100 * gc.get_threshold()[0])])


def nothing(*_: Any) -> None: ...


HANDLERS = Handlers(finished=nothing, failed=nothing, stopped=nothing)


def test_what_a_collection_finds_during_a_run_is_freed_on_the_main_thread() -> None:
    runner = Runner(make_timer=HandTimer, lend_s=0.0)
    freed_on: list[str] = []
    Cycle(freed_on)
    runner.start(allocate_much, handlers=HANDLERS)
    poll_until_over(runner)
    gc.collect()
    assert freed_on == [threading.main_thread().name]
    assert runner.close()


def test_young_garbage_does_not_wait_for_the_end_of_a_run() -> None:
    go = threading.Event()
    runner = Runner(make_timer=HandTimer, lend_s=0.0)
    runner.start(lambda **_: go.wait(20.0), handlers=HANDLERS)
    freed_on: list[str] = []
    Cycle(freed_on)
    kept = [[] for _ in range(2 * gc.get_threshold()[0])]
    assert kept and not freed_on, "no automatic collection"
    runner.poll()
    assert freed_on == [threading.main_thread().name]
    go.set()
    poll_until_over(runner)
    assert runner.close()


def test_collections_are_automatic_again_after_the_last_of_two_workers() -> None:
    garbage, go = MainThreadGarbage(), threading.Event()
    first, second = (Runner(make_timer=HandTimer, garbage=garbage, lend_s=0.0) for _ in range(2))
    first.start(lambda **_: go.wait(20.0), handlers=HANDLERS)
    second.start(lambda **_: None, handlers=HANDLERS)
    poll_until_over(second)
    assert not gc.isenabled(), "the first one still works"
    go.set()
    poll_until_over(first)
    assert gc.isenabled()
    second.start(lambda **_: time.sleep(0.05), handlers=HANDLERS)
    assert not gc.isenabled()
    assert second.close() and first.close()


def test_what_is_found_while_the_panel_closes_is_freed_on_the_main_thread() -> None:
    runner = Runner(make_timer=HandTimer, lend_s=0.0)
    freed_on: list[str] = []
    begun = threading.Event()

    def work(*, progress: Any, cancelled: Any) -> None:
        begun.set()
        while not cancelled():
            time.sleep(0.001)
        time.sleep(0.1)  # the main thread waits in `close` by now
        allocate_much(progress=progress, cancelled=cancelled)

    runner.start(work, handlers=HANDLERS)
    assert begun.wait(10.0)
    Cycle(freed_on)
    assert runner.close()
    gc.collect()
    assert freed_on == [threading.main_thread().name]


def test_collections_that_somebody_switched_off_stay_so() -> None:
    gc.disable()
    try:
        garbage = MainThreadGarbage()
        garbage.worker_begins()
        garbage.worker_ended()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_garbage_is_collected_only_when_python_would_and_then_with_what_survived_before() -> None:
    def collections() -> list[int]:
        return [generation["collections"] for generation in gc.get_stats()]

    garbage, thresholds = MainThreadGarbage(), gc.get_threshold()
    garbage.worker_begins()
    try:
        gc.collect()
        before = collections()
        garbage.collect()
        assert collections() == before, "nothing is due"
        gc.set_threshold(0)
        garbage.collect()
        assert collections() == before, "switched off"
        gc.set_threshold(*thresholds)
        for _ in range(thresholds[1] + 1):
            gc.collect(0)
        kept = [[] for _ in range(2 * thresholds[0])]
        before = collections()
        garbage.collect()
        assert kept and collections() == [before[0], before[1] + 1, before[2]]
    finally:
        gc.set_threshold(*thresholds)
        garbage.worker_ended()


def test_program_ends_only_after_a_worker_that_did_not_stop_in_time(tmp_path: Path) -> None:
    script = f"""
import pathlib, time
from CovidSegLib.runner import Handlers, Runner

class Timer:
    def __init__(self, callback): pass
    def start(self): pass
    def stop(self): pass

def work(*, progress, cancelled):
    time.sleep(1.0)  # one long operation
    assert cancelled()
    pathlib.Path({str(tmp_path / "over")!r}).touch()

runner = Runner(make_timer=Timer)
runner.start(work, handlers=Handlers(finished=print, failed=print, stopped=print))
assert not runner.close(timeout_s=0.01)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "over").exists()
