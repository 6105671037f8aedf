"""The section Batch: a folder of CTs in, a folder of results out, as on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from slicer.i18n import tr as _

from .batch import BatchResult, run_batch
from .case_run import Engine, Outcome, RunOptions, Status
from .cases import Case, discover_cases
from .errors import Cancelled, CovidSegError, DeviceError
from .progress import Progress
from .runner import Failure, Handlers
from .scene_texts import shown
from .summary import SUMMARY_FILE
from .texts import joined
from .widget_progress import PERMILLE, RunClock
from .widget_texts import result_text, standing_text
from .widget_tools import Workplace, details_of, explain_failure, show_text
from .widget_views import Views

#: What is chosen before a batch, and not changed during it.
OPTIONS = ("batchInputEdit", "batchOutputEdit", "batchOverwriteCheckBox", "batchUncertaintyCheckBox")


@dataclass(frozen=True)
class BatchNews:
    """What a batch tells while it works; put into words on the main thread, where texts are translated.

    Attributes:
        kind: "started", "case" (one begins), "progress", "note" or "done" (one ended).
        case: The case's name.
        text: The note; the device and model of the run that started.
        count: Cases in all, or the number of the case.
        progress: Of the case under way.
        outcome: Of the case that ended.
    """

    kind: Literal["started", "case", "progress", "note", "done"]
    case: str = ""
    text: str = ""
    count: int = 0
    progress: Progress | None = None
    outcome: Outcome | None = None


class BatchSection:
    """Segments all CTs of a folder."""

    def __init__(self, place: Workplace, *, views: Views, engine: Engine | None = None) -> None:
        """Work in `place`; `engine` has the parts that a batch calls, tests put small ones in their place."""
        self._place, self._ui, self._views, self._engine = place, place.ui, views, engine
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
            getattr(ui, name).connect("validInputChanged(bool)", self.refresh)  # all that is told of an emptied one
        self._say("")

    @property
    def running(self) -> bool:
        """Whether a batch is under way."""
        return self._running

    def why_not(self) -> str:
        """Return why a batch cannot be started now; empty if it can.

        Asked of `os.path`, which calls a path that cannot be looked at absent; `Path` would raise, as for a share that
        was left, and with it the panel.
        """
        folder, out_dir = str(self._ui.batchInputEdit.currentPath), str(self._ui.batchOutputEdit.currentPath)
        if self._running:
            return _("A batch is under way.")
        if self._place.starting or self._place.runner.busy:
            return _("CovidSeg is busy. Wait until it is done, or cancel it.")
        if self._place.parameters is None:
            return _("There is no scene.")
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
        """Show what can be done now."""
        ui = self._ui
        self._place.allow("batchButton", unless=self.why_not())
        stopping = self._running and self._place.runner.stopping
        self._place.allow("batchCancelButton", unless=_("Stopping at the next step...") if stopping else "")
        ui.batchCancelButton.visible = ui.batchProgressBar.visible = self._running
        for name in OPTIONS:
            self._place.allow(name, unless=_("A batch is under way.") if self._running else "")
        ui.batchOpenButton.visible = self._out_dir is not None and os.path.isdir(self._out_dir) and not self._running

    def start(self) -> None:
        """Start, unless something speaks against it."""
        if self.why_not():
            self._place.refresh()
            return
        parameters = self._place.parameters
        assert parameters is not None
        try:
            with self._place.preparing():
                self._place.prepare()
            if self._place.device_problem:
                raise DeviceError(self._place.device_problem)
        except Cancelled as error:
            self._say(shown(error))
            return
        except Exception as error:
            self._say(explain_failure(Failure(error, details_of(error))), role="error")
            return
        for name in ("batchInputEdit", "batchOutputEdit"):
            getattr(self._ui, name).addCurrentPathToHistory()  # else Slicer forgets them when it ends
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
        if news.kind == "started":
            self._total = news.count
            log.appendPlainText(_("{total} CTs, {what}").format(total=news.count, what=news.text))
        elif news.kind == "case":
            self._number, self._case, self._clock = news.count, news.case, RunClock()
        elif news.kind == "progress" and news.progress is not None:
            standing = self._clock.update(news.progress)
            bar.setValue(round((self._number - 1 + standing.permille / PERMILLE) / max(self._total, 1) * PERMILLE))
            place = _("{number} of {total}, {case}").format(number=self._number, total=self._total, case=self._case)
            bar.setFormat(f"{place}: {standing_text(standing)}")
        elif news.kind == "note":
            log.appendPlainText(shown(news.text))
        elif news.outcome is not None:
            log.appendPlainText(outcome_text(news.case, outcome=news.outcome))
            if news.outcome.unexpected:
                log.appendPlainText(news.outcome.details)

    def _on_finished(self, result: BatchResult) -> None:
        counts = {status: sum(outcome.status is status for outcome in result.outcomes) for status in Status}
        words = {
            Status.DONE: _("done"),
            Status.SKIPPED: _("complete already"),
            Status.FAILED: _("failed"),
            Status.NOT_RUN: _("not run"),
        }
        summary = ", ".join(f"{count} {words[status]}" for status, count in counts.items() if count)
        text = _("{summary}. The table of all cases is {file}.").format(summary=summary, file=SUMMARY_FILE)
        self._over(text, role="warning" if result.failed else "")

    def _on_failed(self, failure: Failure) -> None:
        if not isinstance(failure.error, CovidSegError):  # whose text says all there is to know
            self._ui.batchLog.appendPlainText(failure.details)
        self._over(explain_failure(failure), role="error")

    def _on_stopped(self) -> None:
        self._over(_("Stopped. Cases that are done stay; press Segment folder to go on."))

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
    engine: Engine | None,
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


def outcome_text(case: str, *, outcome: Outcome) -> str:
    """Return how a case ended, in a line."""
    if outcome.status is Status.FAILED:
        return _("{case}: failed: {reason}").format(case=case, reason=shown(outcome.message))
    skipped = _("complete already, ") if outcome.status is Status.SKIPPED else ""
    warning = f" ({shown(outcome.message)})" if outcome.message else ""
    return f"{case}: {skipped}{result_text(outcome.report or {})}{warning}"


class _Reporter:
    """Passes a batch's news on, and stops it when the user asked for that."""

    def __init__(self, tell: Callable[[BatchNews], None], cancelled: Callable[[], bool]) -> None:
        self._tell, self._cancelled = tell, cancelled
        self._number = 0

    def run_started(self, *, total: int, device: str, model: str) -> None:
        self._tell(BatchNews("started", text=f"{model}, {device}", count=total))

    def case_started(self, case: Case) -> None:
        self._check()
        self._number += 1
        self._tell(BatchNews("case", case=case.name, count=self._number))

    def case_progress(self, case: Case, progress: Progress) -> None:
        self._check()
        self._tell(BatchNews("progress", case=case.name, count=self._number, progress=progress))
        if progress.message:
            self.note(joined(": ", (case.name, progress.message)))

    def note(self, text: str) -> None:
        self._tell(BatchNews("note", text=text))

    def case_finished(self, case: Case, outcome: Outcome) -> None:
        self._tell(BatchNews("done", case=case.name, count=self._number, outcome=outcome))

    def _check(self) -> None:
        """Stop the batch if the user asked for it.

        Raises:
            Cancelled: They did.
        """
        if self._cancelled():
            raise Cancelled
