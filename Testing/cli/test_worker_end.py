"""How worker processes are started, and that none outlives a run that stops early."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from CovidSegLib.cases import workers
from CovidSegLib.cases.discovery import Case

CASES = tuple(Case(name, Path(f"{name}.nii.gz")) for name in "abc")


@dataclass
class StubbornProcess:
    """A process that ends only if it is killed, or as asked if `obeys`."""

    obeys: bool = False
    asked: list[str] = field(default_factory=list)
    alive: bool = True
    exitcode: int | None = None

    def is_alive(self) -> bool:
        return self.alive

    def join(self, timeout: float | None = None) -> None:
        assert timeout is not None or not self.alive, "waits for ever"
        self.asked.append("join")

    def terminate(self) -> None:
        self.asked.append("terminate")
        self.alive = not self.obeys

    def kill(self) -> None:
        self.asked.append("kill")
        self.alive = False


def _worker(process: StubbornProcess) -> tuple[Any, Any]:
    ours, theirs = Pipe()
    return workers._Worker(process=process, connection=ours), theirs  # type: ignore[arg-type]


@pytest.mark.parametrize("obeys", [True, False])
def test_worker_that_does_not_end_when_asked_is_killed(*, obeys: bool) -> None:
    process = StubbornProcess(obeys=obeys)
    worker, theirs = _worker(process)
    worker.case = CASES[0]
    workers._end([worker])
    assert process.asked == (["terminate", "join"] if obeys else ["terminate", "join", "kill", "join"])
    assert not process.alive and worker.connection.closed
    theirs.close()


@pytest.mark.parametrize("stop", [lambda run: run.close(), lambda run: run.throw(KeyboardInterrupt)])
def test_run_that_stops_early_ends_its_workers(monkeypatch: pytest.MonkeyPatch, stop: Callable[[Any], None]) -> None:
    started: list[tuple[StubbornProcess, Any, int]] = []

    def start(_runner: Any, *, workers: int) -> Any:
        process = StubbornProcess(obeys=True)
        worker, theirs = _worker(process)
        started.append((process, theirs, workers))
        return worker

    monkeypatch.setattr(workers, "_start_worker", start)
    runner: Any = None
    run = workers.run_in_workers(CASES, runner=runner, workers=2)
    assert next(run) == CASES[0]
    with contextlib.suppress(KeyboardInterrupt):
        stop(run)
    assert [count for _, _, count in started] == [2, 2], "each takes its share of the processors"
    (busy, theirs, _), (idle, idle_theirs, _) = started
    assert "terminate" in busy.asked and not busy.alive
    assert "terminate" not in idle.asked and idle_theirs.recv() is None  # it ends by itself
    for end in (theirs, idle_theirs):
        end.close()


def test_worker_is_a_spawned_process_with_its_share_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    ours, theirs = Pipe()

    def process(**options: Any) -> Any:
        made.update(options)
        return SimpleNamespace(start=lambda: made.update(open_at_start=not theirs.closed))

    def context(method: str) -> Any:
        made["method"] = method
        return SimpleNamespace(Pipe=lambda: (ours, theirs), Process=process)

    monkeypatch.setattr(workers, "multiprocessing", SimpleNamespace(get_context=context))
    monkeypatch.setattr(workers, "cores", lambda: 12)
    runner: Any = object()
    worker = workers._start_worker(runner, workers=3)
    assert (made["method"], made["daemon"], made["target"]) == ("spawn", True, workers._work)
    assert worker.temporary_dir is not None
    given = {"connection": theirs, "runner": runner, "threads": 4, "temporary_dir": worker.temporary_dir.name}
    assert made["kwargs"] == given
    # With this end still open, nobody would see that the process has died.
    assert made["open_at_start"] and theirs.closed and worker.connection is ours
    ours.close()


def test_worker_opens_files_with_any_characters_in_their_path(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(workers, "let_itk_open_any_path", lambda: done.append("paths"))
    monkeypatch.setattr(workers, "signal", SimpleNamespace(signal=lambda *_: None, SIGINT=2, SIG_IGN=1))
    monkeypatch.setattr(workers, "os", SimpleNamespace(environ={}))
    engine = SimpleNamespace(load_bundle=lambda _: done.append("bundle"))
    runner: Any = SimpleNamespace(engine=engine, options=SimpleNamespace(bundle=None))
    connection: Any = SimpleNamespace(recv=lambda: None)
    workers._work(connection=connection, runner=runner, threads=1)
    assert done == ["paths", "bundle"]
