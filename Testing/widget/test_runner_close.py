"""What the runner keeps after a job or its end: no news of another job, nothing in memory, nobody left to wait for."""

from __future__ import annotations

import atexit
import gc
import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from CovidSegLib import runner as runner_module
from CovidSegLib.runner import Handlers, Runner
from helpers_runner import HandTimer, poll_until_over


def nothing(*_: Any) -> None: ...


def handlers(*, finished: Callable[[Any], None] = nothing, progress: Callable[[Any], None] = nothing) -> Handlers:
    return Handlers(finished=finished, failed=nothing, stopped=nothing, progress=progress)


def test_news_wait_as_soon_as_a_handler_makes_them_wait() -> None:
    heard: list[Any] = []
    runner = Runner(make_timer=HandTimer, must_wait=lambda: len(heard) == 1, lend_s=0.0)  # as under a dialog
    told = threading.Event()

    def work(*, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
        progress(1)
        progress(2)
        told.set()

    runner.start(work, handlers=handlers(progress=heard.append))
    assert told.wait(10.0)
    runner.poll()
    assert heard == [1]
    heard.append("the dialog is closed")
    poll_until_over(runner)
    assert heard == [1, "the dialog is closed", 2]
    assert runner.close()


def test_all_that_was_told_comes_with_one_poll() -> None:
    runner, heard, told, go = (
        Runner(make_timer=HandTimer, lend_s=0.0),
        list[Any](),
        threading.Event(),
        threading.Event(),
    )

    def work(*, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
        for step in range(50):
            progress(step)
        told.set()
        go.wait(10.0)

    runner.start(work, handlers=handlers(progress=heard.append))
    assert told.wait(10.0)
    runner.poll()
    assert heard == list(range(50)), "news must not lag behind"
    go.set()
    poll_until_over(runner)
    assert runner.close()


def test_cancelled_job_does_not_keep_the_next_from_starting() -> None:
    runner, heard = Runner(make_timer=HandTimer, lend_s=0.0), list[Any]()
    runner.start(lambda **_: None, handlers=handlers())
    runner.cancel()
    poll_until_over(runner)
    runner.start(lambda **_: 7, handlers=handlers(finished=heard.append))
    poll_until_over(runner)
    assert heard == [7] and not runner.stopping
    assert runner.close()


def test_what_a_job_says_after_its_end_reaches_nobody() -> None:
    runner, heard = Runner(make_timer=HandTimer, lend_s=0.0), list[Any]()
    kept: list[Callable[[Any], None]] = []
    runner.start(lambda *, progress, cancelled: kept.append(progress), handlers=handlers(progress=heard.append))
    poll_until_over(runner)

    def work(*, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
        kept[0]("late")
        progress("in time")

    runner.start(work, handlers=handlers(progress=heard.append))
    poll_until_over(runner)
    assert heard == ["in time"]
    assert runner.close()


def test_poll_of_a_running_job_lends_the_worker_the_time_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s: list[float] = []
    monkeypatch.setattr(runner_module, "time", SimpleNamespace(sleep=slept_s.append))
    runner, go = Runner(make_timer=HandTimer, lend_s=0.125), threading.Event()
    runner.poll()
    assert slept_s == [], "nobody works"
    runner.start(lambda **_: go.wait(10.0), handlers=handlers())
    runner.poll()
    assert slept_s == [0.125]
    go.set()
    poll_until_over(runner)
    assert runner.close()
    assert Runner(make_timer=HandTimer)._lend_s == runner_module.LEND_S > 0


def test_waiting_thread_keeps_nothing_of_the_last_job() -> None:
    class Panel:
        def show(self, _result: Any) -> None: ...

    panel, runner = Panel(), Runner(make_timer=HandTimer, lend_s=0.0)
    reference = weakref.ref(panel)
    runner.start(lambda **_: None, handlers=handlers(finished=panel.show))
    poll_until_over(runner)
    end_s = time.monotonic() + 10.0
    del panel
    while reference() is not None and time.monotonic() < end_s:
        gc.collect()
        time.sleep(0.01)
    assert reference() is None
    assert runner.close()


@pytest.mark.parametrize("in_time", [True, False])
def test_python_waits_only_for_a_thread_that_did_not_end(monkeypatch: pytest.MonkeyPatch, *, in_time: bool) -> None:
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", later.append)
    timers: list[HandTimer] = []

    def make_timer(callback: Callable[[], None]) -> HandTimer:
        timers.append(HandTimer(callback))
        return timers[0]

    runner, begun, go = Runner(make_timer=make_timer, lend_s=0.0), threading.Event(), threading.Event()

    def work(*, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> None:
        begun.set()
        while not (go.is_set() or (in_time and cancelled())):
            time.sleep(0.001)

    runner.start(work, handlers=handlers())
    thread = runner._thread
    assert thread is not None and thread.daemon, "the interpreter would wait for it before what is registered"
    assert begun.wait(10.0)
    assert runner.close(timeout_s=10.0 if in_time else 0.05) is in_time
    assert not timers[0].active and not runner.busy and gc.isenabled()
    assert thread.is_alive() is not in_time
    go.set()
    for wait_for_it in later:
        wait_for_it()
    assert len(later) == (0 if in_time else 1)
    assert not thread.is_alive()


def test_result_that_nobody_took_is_let_go_when_the_runner_closes() -> None:
    class Large: ...

    runner, over, references = Runner(make_timer=HandTimer, lend_s=0.0), threading.Event(), list[Any]()

    def work(**_: Any) -> Large:
        result = Large()
        references.append(weakref.ref(result))
        over.set()
        return result

    runner.start(work, handlers=handlers())
    assert over.wait(10.0)
    assert runner.close()
    gc.collect()
    assert references[0]() is None


def test_runner_that_never_worked_is_closed_at_once() -> None:
    runner = Runner(make_timer=HandTimer, lend_s=0.0)
    assert runner.close() and runner.close()
