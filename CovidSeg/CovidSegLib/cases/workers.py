"""Run cases in several processes; if one of them dies, its case fails, and no other.

A pool of `concurrent.futures` will not do: it breaks as a whole when one worker is killed (out of memory, a crash in a
decoder), and does not say which case did it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..readers.itk_paths import let_itk_open_any_path
from ..runtime import cores
from ..texts import text as _
from .discovery import Case
from .one_case import CaseRunner, Outcome, Status

#: Windows cannot wait for more than 63 objects at once.
_MOST_ON_WINDOWS = 60
#: Interval at which silent workers are checked for being alive.
_LOOK_EVERY_S = 2.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@dataclass(frozen=True)
class WorkerNote:
    """A remark on a case that is under way."""

    case: str
    text: str


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    case: Case | None = None
    temporary_dir: tempfile.TemporaryDirectory[str] | None = None

    def clear_up(self) -> None:
        """Close the connection and remove what the process, which has ended, left of temporary files."""
        self.connection.close()
        if self.temporary_dir is not None:
            self.temporary_dir.cleanup()


def run_in_workers(
    cases: Sequence[Case], *, runner: CaseRunner, workers: int
) -> Generator[Case | Outcome | WorkerNote, None, None]:
    """Yield, as it happens: each case when it begins, notes, and the outcome of each case when it has ended.

    If the caller stops early (an error, Ctrl-C), all processes are ended; `folder.recover` clears what they were
    writing. A process that is ended, or dies, cannot remove its temporary files, such as an unpacked zip; so each has a
    folder for them, which is removed after it.
    """
    workers = min(workers, _MOST_ON_WINDOWS) if sys.platform == "win32" else workers
    waiting = list(reversed(cases))
    crew: list[_Worker] = []
    try:
        while waiting or any(worker.case for worker in crew):
            while waiting and len(crew) < workers:
                crew.append(_start_worker(runner, workers=workers))
            for worker in crew:
                if worker.case is None and waiting:
                    case = waiting.pop()
                    _give(worker, case)
                    yield case
            yield from _collect(crew)
    finally:
        _end(crew)


def _give(worker: _Worker, case: Case) -> None:
    worker.case = case
    with contextlib.suppress(OSError):  # the worker is dead; _collect finds that out and fails the case
        worker.connection.send(case)


def _collect(crew: list[_Worker]) -> Iterator[Outcome | WorkerNote]:
    """Yield the messages that have arrived; remove dead workers from the crew."""
    ready = wait([worker.connection for worker in crew], timeout=_LOOK_EVERY_S)
    # On Windows the connection of a process that died before it had taken over its end stays open for ever.
    dead = [member for member in crew if not member.process.is_alive()]
    for worker in [member for member in crew if member.connection in ready or member in dead]:
        try:
            if not worker.connection.poll():
                raise EOFError
            message: Any = worker.connection.recv()
        except (EOFError, OSError):
            crew.remove(worker)
            yield from _bury(worker)
            continue
        if isinstance(message, Outcome):
            worker.case = None
        yield message


def _bury(worker: _Worker) -> Iterator[Outcome]:
    worker.process.join()
    worker.clear_up()
    if worker.case is not None:
        yield Outcome(
            case=worker.case.name,
            status=Status.FAILED,
            message=_(
                "the process working on it ended (code {code}), often for lack of memory: "
                "use fewer workers (--workers), or mode fast"
            ).format(code=worker.process.exitcode),
        )


def _start_worker(runner: CaseRunner, *, workers: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # the same on every system, and safe with threads
    ours, theirs = context.Pipe()
    # On Windows a file may still be in use; what cannot be removed must not hide how the run ended.
    temporary_dir = tempfile.TemporaryDirectory(prefix="covidseg-", ignore_cleanup_errors=True)
    process = context.Process(
        target=_work,
        kwargs={
            "connection": theirs,
            "runner": runner,
            "threads": _threads_each(workers),
            "temporary_dir": temporary_dir.name,
        },
        daemon=True,
    )
    process.start()
    theirs.close()
    return _Worker(process=process, connection=ours, temporary_dir=temporary_dir)


def _end(crew: list[_Worker]) -> None:
    for worker in crew:
        if worker.case is None:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        else:
            worker.process.terminate()
    for worker in crew:
        worker.process.join(timeout=10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.clear_up()


def _threads_each(workers: int) -> int:
    return max(1, cores() // workers)


def _work(*, connection: Connection, runner: CaseRunner, threads: int, temporary_dir: str | None = None) -> None:
    """Run cases until None comes or the parent is gone (the body of a worker process).

    Temporary files go into `temporary_dir`; where the system has them if None.
    """
    tempfile.tempdir = temporary_dir
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    let_itk_open_any_path()
    threading.Thread(target=_exit_with_parent, args=(temporary_dir,), daemon=True).start()
    for variable in _THREAD_VARIABLES:  # read when torch and ITK are imported, later on
        os.environ.setdefault(variable, str(threads))
    bundle = runner.engine.load_bundle(runner.options.bundle)
    while (case := connection.recv()) is not None:

        def note(text: str, *, name: str = case.name) -> None:
            connection.send(WorkerNote(case=name, text=text))

        connection.send(runner.run(case, bundle=bundle, note=note))


def _exit_with_parent(temporary_dir: str | None) -> None:
    """End this process when its parent dies, so that it does not write into the folder of a later run.

    The parent, which was killed, can no longer remove the temporary files: they may be an unpacked CT.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        if temporary_dir is not None:
            shutil.rmtree(temporary_dir, ignore_errors=True)
        os._exit(1)
