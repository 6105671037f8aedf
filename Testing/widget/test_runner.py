"""The worker thread: one job at a time, news on the main thread, nothing left behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from CovidSegLib.errors import Cancelled, CovidSegError, InputError
from CovidSegLib.runner import Failure, Handlers, Runner
from helpers_runner import HandTimer, poll_until_over


@dataclass
class Heard:
    """What a job told, and on which threads."""

    news: list[Any] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def handlers(self) -> Handlers:
        def hear(into: list[Any], entry: Any) -> None:
            self.threads.add(threading.current_thread().name)
            into.append(entry)

        return Handlers(
            progress=lambda news: hear(self.news, news),
            finished=lambda result: hear(self.ends, ("finished", result)),
            failed=lambda failure: hear(self.ends, ("failed", failure)),
            stopped=lambda: hear(self.ends, "stopped"),
        )


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner(make_timer=HandTimer, lend_s=0.0)
    yield made
    assert made.close()


def run(runner: Runner, work: Callable[..., Any]) -> Heard:
    heard = Heard()
    runner.start(work, handlers=heard.handlers())
    poll_until_over(runner)
    return heard


def test_result_and_progress_come_in_order_on_the_polling_thread(runner: Runner) -> None:
    where: list[str] = []

    def work(*, progress: Any, cancelled: Any) -> str:
        where.append(threading.current_thread().name)
        for step in range(3):
            progress(step)
        return "result"

    heard = run(runner, work)
    assert heard.news == [0, 1, 2]
    assert heard.ends == [("finished", "result")]
    assert heard.threads == {threading.current_thread().name}
    assert where == ["CovidSeg worker"]


def test_one_thread_does_all_jobs(runner: Runner) -> None:
    idents = [run(runner, lambda **_: threading.get_ident()).ends[0][1] for _ in range(3)]
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()


def test_news_wait_while_they_must() -> None:
    waiting = True
    runner = Runner(make_timer=HandTimer, must_wait=lambda: waiting, lend_s=0.0)
    heard, over = Heard(), threading.Event()

    def work(*, progress: Any, cancelled: Any) -> str:
        progress("half")
        over.set()
        return "result"

    runner.start(work, handlers=heard.handlers())
    assert over.wait(10.0)
    runner.poll()
    assert runner.busy and not heard.news and not heard.ends
    waiting = False
    poll_until_over(runner)
    assert heard.news == ["half"] and heard.ends == [("finished", "result")]
    assert runner.close()


def test_second_start_is_refused_until_the_first_is_over(runner: Runner) -> None:
    go = threading.Event()
    heard = Heard()
    runner.start(lambda **_: go.wait(10.0), handlers=heard.handlers())
    with pytest.raises(CovidSegError, match="still busy"):
        runner.start(lambda **_: None, handlers=heard.handlers())
    runner.cancel()
    assert runner.busy and runner.stopping, "asked to stop is not yet stopped"
    with pytest.raises(CovidSegError, match="still busy"):
        runner.start(lambda **_: None, handlers=heard.handlers())
    go.set()
    poll_until_over(runner)
    assert heard.ends == ["stopped"]


def test_cancelled_job_has_no_result_even_if_it_was_finished(runner: Runner) -> None:
    heard = Heard()
    done = threading.Event()

    def work(*, progress: Any, cancelled: Any) -> str:
        progress("late news")
        done.set()
        return "result"

    runner.start(work, handlers=heard.handlers())
    assert done.wait(10.0)
    runner.cancel()
    poll_until_over(runner)
    assert heard.ends == ["stopped"]
    assert heard.news == []


def test_cancel_is_seen_by_the_job_at_its_next_question(runner: Runner) -> None:
    heard, asked = Heard(), threading.Event()

    def work(*, progress: Any, cancelled: Any) -> None:
        while not cancelled():
            asked.set()
            time.sleep(0.001)
        raise Cancelled

    runner.start(work, handlers=heard.handlers())
    assert asked.wait(10.0)
    runner.cancel()
    poll_until_over(runner)
    assert heard.ends == ["stopped"]


@pytest.mark.parametrize("error", [InputError("no lungs"), MemoryError(), KeyboardInterrupt(), ValueError("bug")])
def test_error_is_told_with_its_traceback_and_the_thread_lives_on(runner: Runner, error: BaseException) -> None:
    def work(**_: Any) -> None:
        raise error

    ((kind, failure),) = run(runner, work).ends
    assert kind == "failed"
    assert isinstance(failure, Failure)
    assert failure.error is error
    assert "in work" in failure.details
    assert run(runner, lambda **_: 7).ends == [("finished", 7)]


def test_failed_job_leaves_no_arrays_behind(runner: Runner) -> None:
    references: list[Any] = []

    def work(**_: Any) -> None:
        array = np.zeros(1000)
        references.append(weakref.ref(array))
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise InputError("outer") from error

    heard = run(runner, work)
    gc.collect()
    assert references[0]() is None, "the error holds the frames"
    assert "inner" in heard.ends[0][1].details


def test_work_and_result_are_let_go_once_handed_over(runner: Runner) -> None:
    class Large:
        def __call__(self, **_: Any) -> Any:
            return Large()

    work = Large()
    reference = weakref.ref(work)
    results: list[Any] = []
    handlers = Handlers(
        finished=lambda result: results.append(weakref.ref(result)),
        failed=lambda _: None,
        stopped=lambda: None,
    )
    runner.start(work, handlers=handlers)
    del work
    poll_until_over(runner)
    gc.collect()
    assert reference() is None
    assert results[0]() is None


def test_progress_that_nobody_asked_for_is_passed_over(runner: Runner) -> None:
    ends: list[Any] = []

    def work(*, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> str:
        progress("half")
        return "all"

    runner.start(work, handlers=Handlers(finished=ends.append, failed=ends.append, stopped=lambda: None))
    poll_until_over(runner)
    assert ends == ["all"]


def test_next_job_can_be_started_by_the_handler_of_the_last(runner: Runner) -> None:
    heard = Heard()
    first = Handlers(
        finished=lambda _: runner.start(lambda **_: "second", handlers=heard.handlers()),
        failed=lambda _: None,
        stopped=lambda: None,
    )
    runner.start(lambda **_: "first", handlers=first)
    poll_until_over(runner)
    assert heard.ends == [("finished", "second")]


def test_timer_runs_only_while_there_is_something_to_wait_for() -> None:
    timers: list[HandTimer] = []

    def make(callback: Callable[[], None]) -> HandTimer:
        timers.append(HandTimer(callback))
        return timers[0]

    runner = Runner(make_timer=make, lend_s=0.0)
    assert not timers[0].active
    runner.start(lambda **_: None, handlers=Heard().handlers())
    assert timers[0].active
    poll_until_over(runner)
    assert not timers[0].active
    assert runner.close()


def test_close_stops_the_job_tells_nobody_and_ends_the_thread() -> None:
    runner = Runner(make_timer=HandTimer, lend_s=0.0)
    heard, begun = Heard(), threading.Event()

    def work(*, progress: Any, cancelled: Any) -> None:
        begun.set()
        while not cancelled():
            time.sleep(0.001)
        raise Cancelled

    runner.start(work, handlers=heard.handlers())
    thread = runner._thread
    assert begun.wait(10.0)
    assert runner.close()
    runner.poll()
    assert heard.ends == []
    assert thread is not None and not thread.is_alive()
    with pytest.raises(CovidSegError, match="being closed"):
        runner.start(work, handlers=heard.handlers())


def test_close_does_not_wait_for_ever() -> None:
    runner = Runner(make_timer=HandTimer, lend_s=0.0)
    go = threading.Event()
    runner.start(lambda **_: go.wait(30.0), handlers=Heard().handlers())
    started_s = time.monotonic()
    assert not runner.close(timeout_s=0.05)
    assert time.monotonic() - started_s < 5.0
    go.set()


def test_thread_that_the_system_refuses_leaves_the_runner_as_it_was(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            runner.start(lambda **_: None, handlers=Heard().handlers())
        assert not runner.busy
        assert runner._thread is None, "nothing to wait for on closing"
    assert run(runner, lambda **_: 7).ends == [("finished", 7)]


@pytest.mark.parametrize("fails", [True, False])
def test_handler_with_an_error_of_its_own_harms_no_later_job(runner: Runner, *, fails: bool) -> None:
    def tell(_content: Any) -> None:
        raise ValueError("a fault of the panel")

    def work(**_: Any) -> None:
        if fails:
            raise InputError("no lungs")

    runner.start(work, handlers=Handlers(finished=tell, failed=tell, stopped=lambda: None))
    with pytest.raises(ValueError, match="fault of the panel"):
        poll_until_over(runner)
    assert gc.isenabled()
    assert run(runner, lambda **_: 7).ends == [("finished", 7)]


def test_progress_handler_with_an_error_of_its_own_loses_no_result(runner: Runner) -> None:
    ends: list[Any] = []

    def tell(_news: Any) -> None:
        raise ValueError("a fault of the panel")

    def work(*, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> int:
        progress("half")
        return 7

    handlers = Handlers(finished=ends.append, failed=ends.append, stopped=lambda: None, progress=tell)
    runner.start(work, handlers=handlers)
    with pytest.raises(ValueError, match="fault of the panel"):
        poll_until_over(runner)
    poll_until_over(runner)
    assert ends == [7]
