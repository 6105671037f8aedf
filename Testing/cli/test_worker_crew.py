"""Who of the workers gets which case, and what is made of one that dies: with threads in the place of processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from CovidSegLib.cases import workers
from CovidSegLib.cases.discovery import Case
from CovidSegLib.cases.one_case import Outcome, Status

CASES = tuple(Case(name, Path(f"{name}.nii.gz")) for name in "abcde")


@dataclass
class FakeProcess:
    """What is asked of a process; `serve` runs on a thread."""

    alive: bool = True
    exitcode: int | None = None

    def is_alive(self) -> bool:
        return self.alive

    def join(self, timeout: float | None = None) -> None: ...

    def terminate(self) -> None:
        self.die(-15)

    kill = terminate

    def die(self, code: int) -> None:
        self.alive, self.exitcode = False, code


@dataclass
class Crew:
    """The workers that were started, and what each does with a case."""

    serve: Callable[[FakeProcess, Connection, Case], None]
    processes: list[FakeProcess] = field(default_factory=list)
    ends: list[Connection] = field(default_factory=list)

    def start(self, _runner: Any, *, workers: int) -> Any:
        assert workers > 0
        process = FakeProcess()
        ours, theirs = Pipe()
        self.processes.append(process)
        self.ends += [ours, theirs]
        threading.Thread(target=self._work, args=(process, theirs), daemon=True).start()
        return _worker(process, ours)

    def _work(self, process: FakeProcess, connection: Connection) -> None:
        while process.alive and (case := connection.recv()) is not None:
            self.serve(process, connection, case)


def _worker(process: FakeProcess, connection: Connection) -> Any:
    return workers._Worker(process=process, connection=connection)  # type: ignore[arg-type]


def _done(case: Case) -> Outcome:
    return Outcome(case=case.name, status=Status.DONE)


def _run(monkeypatch: pytest.MonkeyPatch, crew: Crew, *cases: Case, count: int) -> list[Any]:
    monkeypatch.setattr(workers, "_start_worker", crew.start)
    monkeypatch.setattr(workers, "_LOOK_EVERY_S", 0.01)
    runner: Any = None
    return list(workers.run_in_workers(cases, runner=runner, workers=count))


@pytest.fixture(autouse=True)
def _no_thread_fails(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a fault on a worker's thread fail the test."""
    faults: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    yield
    assert faults == []


def test_cases_begin_in_order_and_each_worker_has_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(_process: FakeProcess, connection: Connection, case: Case) -> None:
        assert not connection.poll(0.05), "another case waits here"
        connection.send(workers.WorkerNote(case.name, "a remark"))
        connection.send(_done(case))

    crew = Crew(serve)
    told = _run(monkeypatch, crew, *CASES, count=2)
    assert len(crew.processes) == 2
    assert [message for message in told if isinstance(message, Case)] == list(CASES)
    assert sorted(message.case for message in told if isinstance(message, Outcome)) == list("abcde")
    notes = [message.case for message in told if isinstance(message, workers.WorkerNote)]
    assert sorted(notes) == list("abcde")


def test_windows_has_no_more_workers_than_it_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(lambda _process, connection, case: connection.send(_done(case)))
    monkeypatch.setattr(workers, "_MOST_ON_WINDOWS", 3)
    monkeypatch.setattr(workers, "sys", SimpleNamespace(platform="win32"))
    _run(monkeypatch, crew, *CASES, count=5)
    assert len(crew.processes) == 3


def test_worker_that_dies_in_silence_fails_its_case_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(process: FakeProcess, connection: Connection, case: Case) -> None:
        if case.name == "b":
            process.die(-9)  # its end of the connection stays open, as on Windows
        else:
            connection.send(_done(case))

    crew = Crew(serve)
    told = _run(monkeypatch, crew, *CASES, count=1)
    outcomes = {message.case: message for message in told if isinstance(message, Outcome)}
    assert [name for name, outcome in outcomes.items() if outcome.status is Status.FAILED] == ["b"]
    assert "the process working on it ended (code -9), often for lack of memory" in outcomes["b"].message
    assert list(outcomes) == list("abcde")
    assert len(crew.processes) == 2
    assert crew.ends[0].closed


def test_what_a_worker_said_before_it_died_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(process: FakeProcess, connection: Connection, case: Case) -> None:
        connection.send(_done(case))
        process.die(1)

    told = _run(monkeypatch, Crew(serve), CASES[0], count=1)
    assert [message.status for message in told if isinstance(message, Outcome)] == [Status.DONE]


def test_worker_that_died_before_it_was_given_its_case_fails_it() -> None:
    ours, theirs = Pipe()
    theirs.close()
    worker = _worker(FakeProcess(), ours)
    workers._give(worker, CASES[0])
    worker.process.die(1)
    assert [(outcome.case, outcome.status) for outcome in workers._collect([worker])] == [("a", Status.FAILED)]


def test_nobody_is_started_for_cases_that_are_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(process: FakeProcess, connection: Connection, case: Case) -> None:
        if case.name == "a":
            process.die(-9)
        else:
            assert not connection.poll(0.1)
            connection.send(_done(case))

    crew = Crew(serve)
    _run(monkeypatch, crew, *CASES[:2], count=2)
    assert len(crew.processes) == 2
