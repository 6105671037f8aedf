"""The section Batch: a folder of CTs in, a folder of results out, as on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slicer.i18n import tr as _

from ..cases.batch import BatchResult, run_batch
from ..cases.discovery import Case, discover_cases
from ..cases.names import SUMMARY_FILE
from ..cases.one_case import Engine, Outcome, RunOptions, Status
from ..errors import Cancelled, CovidSegError
from ..progress import Progress
from ..runner import Failure, Handlers
from ..scenes.texts import shown
from ..texts import joined
from .progress import PERMILLE, RunClock
from .texts import batch_message, on_a_bar, position_text, result_text
from .views import Views
from .workplace import Workplace, details_of, log_and_explain, show_text

#: Inputs that are disabled during a batch.
OPTIONS = ("batchInputEdit", "batchOutputEdit", "batchOverwriteCheckBox", "batchUncertaintyCheckBox")


# What a batch tells while it works; it is put into words on the main thread, where texts are translated.


@dataclass(frozen=True)
class BatchStarted:
    """The cases were found, and device and model are ready."""

    total: int
    device: str
    model: str


@dataclass(frozen=True)
class CaseStarted:
    """A case begins; `number` counts from 1."""

    name: str
    number: int


@dataclass(frozen=True)
class Note:
    """A remark for the log."""

    text: str


BatchNews = BatchStarted | CaseStarted | Progress | Note | Outcome


class BatchSection:
    """Segments all CTs of a folder."""

    def __init__(self, place: Workplace, *, views: Views) -> None:
        """Work in `place`; `views` opens the folder of the results."""
        self._place, self._ui, self._views, self._engine = place, place.ui, views, Engine()
        self._running = False
        self._total = self._number = 0
        self._case = ""
        self._clock = RunClock()
        self._out_dir: Path | None = None
        ui = self._ui
        ui.batchButton.connect("clicked(bool)", self.start)
        ui.batchCancelButton.connect("clicked(bool)", self.cancel)
        ui.batchOpenButton.connect("clicked(bool)", self.open_results)
        for name in ("batchInputEdit", "batchOutputEdit"):
            getattr(ui, name).connect("currentPathChanged(QString)", self.refresh)
            getattr(ui, name).connect("validInputChanged(bool)", self.refresh)  # the only signal of an emptied path
        self._say("")

    @property
    def running(self) -> bool:
        """Whether a batch is under way."""
        return self._running

    def why_not(self) -> str:
        """Return why a batch cannot be started now; empty if it can.

        `os.path` and not `Path`, whose methods raise where a path cannot be examined, such as a network share that is
        gone; `os.path` says that it does not exist.
        """
        folder, out_dir = str(self._ui.batchInputEdit.currentPath), str(self._ui.batchOutputEdit.currentPath)
        if self._running:
            return _("A batch is under way.")
        if reason := self._place.why_not_start():
            return reason
        if not folder:
            return _("Choose a folder with CTs.")
        if not os.path.exists(folder):
            return _("The folder with CTs does not exist. Check its path.")
        if not out_dir:
            return _("Choose a folder for the results.")
        if os.path.isfile(out_dir):
            return _("The place for the results is a file. Choose a folder.")
        if os.path.realpath(folder) == os.path.realpath(out_dir):
            return _("The results cannot go into the folder with the CTs. Choose another.")
        return self._place.device_problem

    def refresh(self) -> None:
        """Enable what can be done now, and say of the rest why not."""
        ui = self._ui
        self._place.allow("batchButton", unless=self.why_not())
        stopping = self._running and self._place.runner.stopping
        self._place.allow("batchCancelButton", unless=_("Stopping at the next step...") if stopping else "")
        ui.batchCancelButton.visible = ui.batchProgressBar.visible = self._running
        for name in OPTIONS:
            self._place.allow(name, unless=_("A batch is under way.") if self._running else "")
        ui.batchOpenButton.visible = self._out_dir is not None and os.path.isdir(self._out_dir) and not self._running

    def start(self) -> None:
        """Start a batch, if nothing prevents it."""
        if self.why_not():
            self._place.refresh()
            return
        parameters = self._place.parameters
        assert parameters is not None
        try:
            with self._place.preparing():
                self._place.make_ready()
        except Cancelled as error:
            self._say(shown(error))
            return
        except Exception as error:
            self._say(log_and_explain(Failure(error, details_of(error))), role="error")
            return
        for name in ("batchInputEdit", "batchOutputEdit"):
            getattr(self._ui, name).addCurrentPathToHistory()  # else Slicer does not remember them when it restarts
        self._out_dir = Path(str(self._ui.batchOutputEdit.currentPath))
        options = RunOptions(
            out_dir=self._out_dir,
            mode=parameters.mode.value,
            device=parameters.device.value,
            overwrite=bool(parameters.batchOverwrite),
            uncertainty=bool(parameters.batchUncertainty),
        )
        work = partial(
            segment_folder, Path(str(self._ui.batchInputEdit.currentPath)), options=options, engine=self._engine
        )
        self._running = True
        self._total = self._number = 0
        self._ui.batchLog.clear()
        self._ui.batchLog.visible = True
        self._ui.batchProgressBar.setValue(0)
        self._ui.batchProgressBar.setFormat(_("Looking for CTs..."))
        self._say("")
        handlers = Handlers(
            progress=self._on_news, finished=self._on_finished, failed=self._on_failed, stopped=self._on_stopped
        )
        self._place.runner.start(work, handlers=handlers)
        self._place.refresh()

    def cancel(self) -> None:
        """Stop at the next step; what is complete stays."""
        if self._running:
            self._place.runner.cancel()
            self._ui.batchProgressBar.setFormat(_("Stopping..."))
            self._place.refresh()

    def open_results(self) -> None:
        """Open the folder with the results."""
        if self._out_dir is not None:
            self._views.open_folder(self._out_dir)

    def _on_news(self, news: BatchNews) -> None:
        bar, log = self._ui.batchProgressBar, self._ui.batchLog
        if isinstance(news, BatchStarted):
            self._total = news.total
            what = f"{news.model}, {news.device}"
            log.appendPlainText(_("{total} CTs, {what}").format(total=news.total, what=what))
        elif isinstance(news, CaseStarted):
            self._number, self._case, self._clock = news.number, news.name, RunClock()
        elif isinstance(news, Progress):
            position = self._clock.update(news)
            done = (self._number - 1) + position.permille / PERMILLE
            bar.setValue(round(PERMILLE * done / max(self._total, 1)))
            case = _("{number} of {total}, {case}").format(number=self._number, total=self._total, case=self._case)
            bar.setFormat(on_a_bar(f"{case}: {position_text(position)}"))
        elif isinstance(news, Note):
            log.appendPlainText(self._worded(news.text))
        else:
            log.appendPlainText(outcome_text(news, message=self._worded(news.message)))
            if news.unexpected:
                log.appendPlainText(news.details)

    def _on_finished(self, result: BatchResult) -> None:
        counts = {status: sum(outcome.status is status for outcome in result.outcomes) for status in Status}
        words = {
            Status.DONE: _("done"),
            Status.SKIPPED: _("already complete"),
            Status.FAILED: _("failed"),
            Status.NOT_RUN: _("not run"),
        }
        summary = ", ".join(f"{count} {words[status]}" for status, count in counts.items() if count)
        text = _("{summary}. The table of all cases is {file}.").format(summary=summary, file=SUMMARY_FILE)
        self._over(text, role="warning" if result.failed else "")

    def _on_failed(self, failure: Failure) -> None:
        if isinstance(failure.error, CovidSegError):  # its text says all there is to know
            self._over(self._worded(failure.error), role="error")
            return
        self._ui.batchLog.appendPlainText(failure.details)
        self._over(log_and_explain(failure), role="error")

    def _on_stopped(self) -> None:
        self._over(_("Stopped. Cases that are done stay; press Segment folder to go on."))

    def _worded(self, said: object) -> str:
        """Return what the command line would say, in the words of the panel."""
        names = {"-o OUT": self._ui.batchOutputLabel.text, "--overwrite": self._ui.batchOverwriteCheckBox.text}
        plain = {option: str(name).replace("&", "").rstrip(":") for option, name in names.items()}
        return batch_message(said, controls=plain)

    def _over(self, text: str, *, role: str = "") -> None:
        self._running = False
        self._say(text, role=role)
        self._place.refresh()

    def _say(self, text: str, *, role: str = "") -> None:
        show_text(self._ui.batchStatusLabel, text, role=role)


def segment_folder(
    folder: Path,
    *,
    options: RunOptions,
    engine: Engine,
    progress: Callable[[BatchNews], None],
    cancelled: Callable[[], bool],
) -> BatchResult:
    """Segment the CTs of a folder (runs on the worker thread).

    Raises:
        CovidSegError: There is no CT in it, the output cannot be used, or the device or bundle is missing.
        Cancelled: The user stopped the run; the summary of what is done is written.
    """
    reporter = _Reporter(progress, cancelled)
    found = discover_cases([folder], out_dir=options.out_dir)
    for note in found.notes:
        reporter.note(note)
    result = run_batch(found.cases, options=options, reporter=reporter, engine=engine)
    if result.stopped:
        raise Cancelled
    return result


def outcome_text(outcome: Outcome, *, message: str) -> str:
    """Return how a case ended, in a line; `message` is the outcome's in the words of the panel."""
    if outcome.status is Status.FAILED:
        return _("{case}: failed: {reason}").format(case=outcome.case, reason=message)
    skipped = _("already complete, ") if outcome.status is Status.SKIPPED else ""
    warning = f" ({message})" if message else ""
    return f"{outcome.case}: {skipped}{result_text(outcome.report or {})}{warning}"


class _Reporter:
    """Passes a batch's news on to the main thread, and stops the batch when the user asked for that."""

    def __init__(self, tell: Callable[[BatchNews], None], cancelled: Callable[[], bool]) -> None:
        self._tell, self._cancelled = tell, cancelled
        self._number = 0

    def run_started(self, *, total: int, device: str, model: str) -> None:
        self._tell(BatchStarted(total, device, model))

    def case_started(self, case: Case) -> None:
        self._check()
        self._number += 1
        self._tell(CaseStarted(case.name, self._number))

    def case_progress(self, case: Case, progress: Progress) -> None:
        self._check()
        self._tell(progress)
        if progress.message:
            self.note(joined(": ", (case.name, progress.message)))

    def note(self, text: str) -> None:
        self._tell(Note(text))

    def case_finished(self, case: Case, outcome: Outcome) -> None:
        self._tell(outcome)

    def _check(self) -> None:
        """Stop the batch if the user asked for it.

        Raises:
            Cancelled: They did.
        """
        if self._cancelled():
            raise Cancelled
