"""Work beside the window: one worker thread, whose news is handed over on the main thread.

The thread is started with the first job and kept, because cuDNN plans convolutions per thread.
A job gets copies (arrays), never nodes or widgets; whatever it has to say waits in a queue until
`Runner.poll` is called on the main thread, by a timer that is injected. Nothing here knows Qt.

A stopped job has no result, even if it was finished in the same moment: Cancel means that nothing
changes. Until its thread noticed, the runner stays busy, so two jobs never run at once.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import Cancelled, CovidSegError
from .garbage import MainThreadGarbage
from .progress import Progress
from .scenes.texts import tr as _

POLL_EVERY_MS = 30
#: How long each poll of a running job sleeps. While Slicer waits for events its main thread keeps Python's lock, and
#: the worker would stand still between two of its operations; sleeping lends it the lock.
LEND_S = 0.02


class Timer(Protocol):
    """What calls `Runner.poll` every few milliseconds while there is something to wait for (a `qt.QTimer`)."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Work(Protocol):
    """What runs on the worker thread; asked to stop, it raises `Cancelled`."""

    def __call__(self, *, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any: ...


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        error: The exception, without its frames, which would keep the arrays alive.
        details: Its traceback as text.
    """

    error: BaseException
    details: str


@dataclass(frozen=True)
class Handlers:
    """Whom a job tells, on the main thread; exactly one of the first three is called, once, at the end."""

    finished: Callable[[Any], None]
    failed: Callable[[Failure], None]
    stopped: Callable[[], None]
    progress: Callable[[Any], None] = lambda _news: None


@dataclass
class _Job:
    work: Work | None
    handlers: Handlers
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _News:
    job: _Job
    kind: str
    content: Any


class Runner:
    """Runs one job at a time on its thread. Every method is for the main thread."""

    def __init__(
        self,
        *,
        make_timer: Callable[[Callable[[], None]], Timer],
        must_wait: Callable[[], bool] = lambda: False,
        garbage: MainThreadGarbage | None = None,
        lend_s: float = LEND_S,
    ) -> None:
        """Prepare; the thread begins with the first job.

        Args:
            make_timer: Returns, for a callback, the timer that calls it.
            must_wait: Asked at every poll; while it is True, news wait for a later one.
            garbage: Shared by the runners of a panel.
            lend_s: How long a poll sleeps.
        """
        self._timer = make_timer(self.poll)
        self._must_wait, self._lend_s = must_wait, lend_s
        self._garbage = garbage or MainThreadGarbage()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._job: _Job | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a job runs, or was asked to stop and has not yet done so."""
        return self._job is not None

    @property
    def stopping(self) -> bool:
        """Whether the job was asked to stop."""
        return self._job is not None and self._job.stop.is_set()

    def start(self, work: Work, *, handlers: Handlers) -> None:
        """Run `work` on the worker thread.

        Raises:
            CovidSegError: Another job is not over yet, or the runner is closed.
        """
        if self._job is not None:
            raise CovidSegError(_("CovidSeg is still busy with another run. Wait for it, or cancel it."))
        if self._closed:
            raise CovidSegError(_("CovidSeg is being closed; nothing can be started any more."))
        if self._thread is None or not self._thread.is_alive():
            arguments = (self._jobs, self._news)
            thread = threading.Thread(target=_work_off, args=arguments, name="CovidSeg worker", daemon=True)
            thread.start()
            self._thread = thread
        self._job = _Job(work, handlers)
        self._garbage.worker_begins()
        self._jobs.put(self._job)
        self._timer.start()

    def cancel(self) -> None:
        """Ask the job to stop at its next step; its handler `stopped` is called when it did."""
        if self._job is not None:
            self._job.stop.set()

    def poll(self) -> None:
        """Hand over what the worker has told since the last time (called by the timer)."""
        if self._job is not None:
            self._garbage.collect()
            time.sleep(self._lend_s)
        while self._job is not None and not self._must_wait():
            try:
                news = self._news.get_nowait()
            except queue.Empty:
                return
            if news.job is self._job:
                self._hand_over(news)

    def close(self, *, timeout_s: float = 10.0) -> bool:
        """Stop the job without telling anybody and end the thread; tell whether it ended in time."""
        self._closed = True
        self.cancel()
        self._timer.stop()
        if self._thread is None:
            return True
        self._jobs.put(None)
        self._thread.join(timeout_s)
        self._end_job()  # only now: until its end the thread would collect what the panel leaves
        ended = not self._thread.is_alive()
        if not ended:
            # Python must not end under a thread that is inside torch: the whole program would abort.
            atexit.register(self._thread.join)
        self._news = queue.SimpleQueue()
        return ended

    def _end_job(self) -> None:
        if self._job is not None:
            self._job = None
            self._garbage.worker_ended()
        self._timer.stop()

    def _hand_over(self, news: _News) -> None:
        job = news.job
        if news.kind == "progress":
            if not job.stop.is_set():
                job.handlers.progress(news.content)
            return
        self._end_job()  # before its handler is called, which may start the next job
        if job.stop.is_set() or news.kind == "stopped":
            job.handlers.stopped()
        elif news.kind == "failed":
            job.handlers.failed(news.content)
        else:
            job.handlers.finished(news.content)


def _work_off(jobs: queue.SimpleQueue[_Job | None], news: queue.SimpleQueue[_News]) -> None:
    """Run jobs until None comes (the body of the worker thread)."""
    while (job := jobs.get()) is not None:
        news.put(_run(job, news=news))
        del job  # while it waits for the next one, the thread keeps nothing of the last


def _run(job: _Job, *, news: queue.SimpleQueue[_News]) -> _News:
    """Return how a job ended."""

    def tell(progress: Progress) -> None:
        news.put(_News(job, "progress", progress))

    work, job.work = job.work, None
    assert work is not None
    try:
        return _News(job, "finished", work(progress=tell, cancelled=job.stop.is_set))
    except Cancelled:
        return _News(job, "stopped", None)
    except BaseException as error:  # whatever it is, the thread lives on and the user is told
        details = traceback.format_exc()
        return _News(job, "failed", Failure(_without_frames(error), details))


def _without_frames(error: BaseException) -> BaseException:
    """Return the error cut loose from its frames and causes, and so from the arrays in them."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
