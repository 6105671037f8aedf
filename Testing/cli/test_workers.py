"""Worker processes: how many threads each takes, what they tell, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from CovidSegLib.cases import workers
from CovidSegLib.cases.discovery import Case
from CovidSegLib.cases.one_case import CaseRunner, Outcome, RunOptions, Status
from fake_engine import FAKE_ENGINE, write_ct
from helpers_cli import PATIENCE_S, segment, start_process, summary, wait_for

pytestmark = pytest.mark.usefixtures("fake_engine")


def _cts(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write_ct(folder / f"{name}.nii.gz", seed=seed)
    return folder


def _children_at_work(process: subprocess.Popen[str], *, out: Path) -> list[Any]:
    """Return the processes of a run's workers once each has begun to write its case."""
    import psutil

    wait_for(lambda: len(list(out.glob(".*.partial-*/labelmap.nii.gz"))) == 2)
    children = psutil.Process(process.pid).children()
    assert len(children) >= 2
    return children


@pytest.mark.parametrize(("cores", "count", "threads"), [(16, 3, 5), (8, 2, 4), (2, 4, 1), (1, 1, 1)])
def test_workers_share_the_processors_and_each_has_one_at_least(
    monkeypatch: pytest.MonkeyPatch, cores: int, count: int, threads: int
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: cores)
    assert workers._threads_each(count) == threads


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a worker that runs in this process, which stays as it was."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return environ


def _work_here(*cases: Case, options: RunOptions, threads: int) -> list[object]:
    """Have a worker's body run the cases in this process; return what it sends."""
    sent: list[object] = []
    given = iter([*cases, None])
    connection: Any = SimpleNamespace(recv=lambda: next(given), send=sent.append)
    workers._work(connection=connection, runner=CaseRunner(options, FAKE_ENGINE), threads=threads)
    return sent


def test_worker_computes_with_its_share_of_threads_unless_the_user_chose(environ: dict[str, str]) -> None:
    environ["MKL_NUM_THREADS"] = "7"
    assert _work_here(options=RunOptions(Path("out")), threads=3) == []
    set_here = {name: value for name, value in environ.items() if name.endswith("_THREADS")}
    assert set_here == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "7",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "3",
    }


@pytest.mark.usefixtures("environ")
def test_worker_uses_the_bundle_that_was_asked_for(tmp_path: Path) -> None:
    case = Case("a", write_ct(tmp_path / "a.nii.gz"))
    (tmp_path / "out").mkdir()
    options = RunOptions(tmp_path / "out", bundle=Path("other"), preview=False)
    (outcome,) = _work_here(case, options=options, threads=1)
    assert isinstance(outcome, Outcome) and outcome.status is Status.DONE and outcome.report is not None
    assert outcome.report["model"]["sha256"] == "e" * 64


def test_notes_of_workers_name_their_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = _cts(tmp_path / "in", "a", "b", "c"), tmp_path / "out"
    assert segment(data / "a.nii.gz", data / "c.nii.gz", "-o", out, "--no-preview") == 0
    capsys.readouterr()
    assert segment(data, "-o", out, "--no-preview", "--mode", "fast", "--workers", "2") == 0
    printed = capsys.readouterr().out
    for case in ("a", "c"):
        assert f"{case}: computing again: option mode has changed from accurate to fast\n" in printed
    assert "b: computing again" not in printed
    assert [(row["case"], row["status"]) for row in summary(out)] == [("a", "done"), ("b", "done"), ("c", "done")]


def test_dead_workers_are_replaced_until_every_case_had_its_turn(tmp_path: Path) -> None:
    data = _cts(tmp_path / "in", "dies1", "dies2", "z")
    assert segment(data, "-o", tmp_path / "out", "--no-preview", "--workers", "2") == 1
    statuses = [(row["case"], row["status"]) for row in summary(tmp_path / "out")]
    assert statuses == [("dies1", "failed"), ("dies2", "failed"), ("z", "done")]


@pytest.mark.skipif(os.name == "nt", reason="tells by a POSIX signal how a process ended")
def test_workers_without_a_case_end_by_themselves_and_the_others_are_ended(tmp_path: Path) -> None:
    runner = CaseRunner(RunOptions(tmp_path), FAKE_ENGINE)
    idle, busy = (workers._start_worker(runner, workers=2) for _ in range(2))
    workers._give(busy, Case("a", tmp_path / "a.nii.gz"))
    started_s = time.monotonic()
    workers._end([idle, busy])
    assert (idle.process.exitcode, busy.process.exitcode) == (0, -signal.SIGTERM)
    assert idle.connection.closed and busy.connection.closed
    assert time.monotonic() - started_s < 9.0  # not waited for in vain
    workers._end([idle])  # nobody there any more to be told
    assert list(workers._bury(idle)) == []  # a process fails its own case, if it has one
    assert [outcome.case for outcome in workers._bury(busy)] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_ctrl_c_that_reaches_the_workers_too_is_left_to_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_process(
        _cts(tmp_path / "in", "a", "b"), "-o", out, "--no-preview", "--workers", "2", write_pause_s=0.3
    )
    for child in _children_at_work(process, out=out):
        child.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    assert [row["status"] for row in summary(out)] == ["done", "done"]


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_workers_of_a_killed_run_end_at_once_and_leave_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    process = start_process(
        _cts(tmp_path / "in", "a", "b"), "-o", out, "--no-preview", "--workers", "2", write_pause_s=20.0
    )
    children = _children_at_work(process, out=out)
    unpacked = [folder / "patient" / "slice.dcm" for folder in scratch.glob("covidseg-*")]
    for path in unpacked:
        path.parent.mkdir()
        path.touch()
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=10.0)
    for child in alive:
        child.kill()
    assert alive == []
    process.communicate()
    assert len(unpacked) == 2 and list(scratch.iterdir()) == []
