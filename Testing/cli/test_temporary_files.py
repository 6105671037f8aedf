"""What is unpacked on the way, such as a patient's DICOM files, never outlives a run, however it ends."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from CovidSegLib.cases import workers
from CovidSegLib.cases.one_case import CaseRunner, RunOptions
from CovidSegLib.cli import main
from fake_engine import FAKE_ENGINE, write_ct
from helpers_cli import PATIENCE_S, start_process, summary, wait_for


def _zip(path: Path) -> Path:
    ct = write_ct(path.with_suffix(".nii.gz"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(ct, ct.name)
    ct.unlink()
    return path


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_leaves_nothing_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals, count: int
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("FAKE_UNPACK_PAUSE_S", "60")
    zips = [_zip(tmp_path / f"{name}.zip") for name in "ab"]
    process = start_process(*zips, "-o", out, "--workers", str(count))
    wait_for(lambda: len(list(scratch.glob("**/covidseg-zip-*/*.nii.gz"))) == count)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors.count("\n")) == (130, 1) and "stopped by the user" in errors
    assert list(scratch.iterdir()) == []
    assert [row["status"] for row in summary(out)] == ["not run", "not run"]


def _left_by(worker: Any) -> Path:
    left = Path(worker.temporary_dir.name) / "covidseg-zip-x" / "slice.dcm"
    left.parent.mkdir()
    left.write_text("a patient's")
    return left.parent.parent


def test_folder_of_a_worker_that_died_is_removed_at_once_and_those_of_others_at_the_end(tmp_path: Path) -> None:
    runner = CaseRunner(RunOptions(tmp_path), FAKE_ENGINE)
    dead, idle = (workers._start_worker(runner, workers=2) for _ in range(2))
    folders = [_left_by(worker) for worker in (dead, idle)]
    dead.process.kill()
    assert list(workers._bury(dead)) == []
    assert [folder.exists() for folder in folders] == [False, True]
    workers._end([idle])
    assert not folders[1].exists()


def test_worker_has_its_temporary_files_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    connection: Any = SimpleNamespace(recv=lambda: None)
    runner = CaseRunner(RunOptions(tmp_path), FAKE_ENGINE)
    workers._work(connection=connection, runner=runner, threads=1, temporary_dir=str(tmp_path))
    assert tempfile.gettempdir() == str(tmp_path)


@pytest.fixture
def default_sigterm() -> Iterator[None]:
    """Have SIGTERM end the process, as it does unless somebody handles it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def _during_info(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> int:
    """Have `covidseg info` do something else; return its exit code."""

    def run_info(_options: object) -> int:
        action()
        return 0

    monkeypatch.setattr("CovidSegLib.commands.info.run_info", run_info)
    return main(["info"])


@pytest.mark.usefixtures("default_sigterm")
def test_sigterm_stops_a_command_as_ctrl_c_does_and_a_second_one_does_not_disturb_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def action() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append("cleared up")

    assert _during_info(monkeypatch, action) == 130
    assert done == ["cleared up"] and "stopped by the user" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("default_sigterm")
def test_whoever_handles_sigterm_already_goes_on_doing_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def handler(number: int, _frame: object) -> None:
        told.append(number)

    signal.signal(signal.SIGTERM, handler)
    assert _during_info(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM)) == 0
    assert told == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.usefixtures("default_sigterm")
def test_command_on_another_thread_leaves_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    handlers: list[object] = []

    def work() -> None:
        codes.append(_during_info(monkeypatch, lambda: handlers.append(signal.getsignal(signal.SIGTERM))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0] and handlers == [signal.SIG_DFL]
