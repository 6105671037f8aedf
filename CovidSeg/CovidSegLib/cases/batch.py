"""Run many cases into an output folder: isolation of bad cases, resume, summary.csv and run.json."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import Cancelled, InputError
from ..failures import explain
from ..readers.file_names import is_encodable
from ..texts import joined
from ..texts import text as _
from .discovery import Case
from .folder import recover
from .one_case import CaseRunner, Engine, Outcome, RunOptions, Status
from .recorded_inputs import updated_record
from .run_lock import run_lock
from .summary import write_run_record, write_summary
from .workers import WorkerNote, run_in_workers

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..progress import Progress

#: The message of a case that has begun, which stays if the run is stopped before the case has ended.
_UNDER_WAY = _("stopped by the user while it was under way")
#: What is learnt of a run, in the order of time: a case when it begins, its outcome when it has ended.
_Events = Generator[Case | Outcome, None, None]


class RunReporter(Protocol):
    """Who is told how a run goes: the console, or a test."""

    def run_started(self, *, total: int, device: str, model: str) -> None: ...

    def case_started(self, case: Case) -> None: ...

    def case_progress(self, case: Case, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def case_finished(self, case: Case, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class BatchResult:
    """How a run ended: an outcome per case in order, and whether the user stopped it."""

    outcomes: tuple[Outcome, ...]
    stopped: bool

    @property
    def failed(self) -> int:
        """The number of failed cases."""
        return sum(outcome.status is Status.FAILED for outcome in self.outcomes)


def run_batch(
    cases: Sequence[Case], *, options: RunOptions, reporter: RunReporter, engine: Engine | None = None
) -> BatchResult:
    """Segment the cases into `options.out_dir`; return how each ended.

    Ctrl-C ends the run early: summary.csv and run.json are still written, and the remaining cases are "not run"; the
    message of a case that was under way says so.

    Raises:
        InputError: The output folder cannot be used, or another run is using it.
        ModelError: The bundle is missing or damaged.
        DeviceError: The device asked for is absent.
    """
    engine = engine or Engine()
    bundle = engine.load_bundle(options.bundle)
    device = engine.resolve_device(options.device)
    make_out_dir(options.out_dir)
    started, clock = datetime.now(UTC), time.perf_counter()

    def record(*, seconds: float | None) -> None:
        write_run_record(
            options.out_dir,
            model=bundle.to_dict(),
            device=device,
            options=_options_as_json(options),
            times={"started": started.isoformat(timespec="seconds"), "seconds": seconds},
            inputs=updated_record(options.out_dir, inputs={case.name: case.path for case in cases}),
        )

    with run_lock(options.out_dir):
        for line in recover(options.out_dir):
            reporter.note(line)
        with contextlib.suppress(OSError):  # else told at the end, when results are safe
            record(seconds=None)  # so that a run that is killed has named its cases for good
        reporter.run_started(total=len(cases), device=device, model=f"{bundle.name} {bundle.version}")
        result = _run_all(cases, runner=CaseRunner(options=options, engine=engine), bundle=bundle, reporter=reporter)
        if result.stopped:
            recover(options.out_dir)
        write_summary(options.out_dir, outcomes=result.outcomes)
        record(seconds=round(time.perf_counter() - clock, 2))
    return result


def make_out_dir(out_dir: Path) -> None:
    """Make the output folder unless it exists, and make sure that it can be written to.

    Raises:
        InputError: It cannot be, or `check_out_dir` refuses the path.
    """
    check_out_dir(out_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        probe = out_dir / ".covidseg.write-test"
        probe.touch()
        probe.unlink(missing_ok=True)  # gone already if another run tried at the same time
    except OSError as error:
        raise InputError(_("the output folder cannot be written: {reason}").format(reason=explain(error))) from error


def check_out_dir(out_dir: Path) -> None:
    """Make sure that there is a folder at the path, or that one could be made.

    Raises:
        InputError: The path has undecodable letters, is that of a file, or leads through a dangling link.
    """
    if not is_encodable(out_dir):
        raise InputError(
            _(
                "the output path {path!a} has letters in no known encoding: choose another output folder (-o OUT)."
            ).format(path=str(out_dir))
        )
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(_("the output '{path}' is a file: give an output folder (-o OUT).").format(path=out_dir))
    for path in (out_dir, *out_dir.parents):
        if path.is_symlink() and not path.exists():
            text = _(
                "the output folder cannot be made: '{path}' is a link to nothing. Mend the link, or choose another "
                "output folder (-o OUT)."
            )
            raise InputError(text.format(path=path))


def _options_as_json(options: RunOptions) -> dict[str, Any]:
    return {
        "mode": options.mode,
        "device": options.device,
        "bundle": str(options.bundle) if options.bundle else None,
        "overwrite": options.overwrite,
        "workers": options.workers,
        "preview": options.preview,
        "series": options.series,
        "uncertainty": options.uncertainty,
    }


def _run_all(cases: Sequence[Case], *, runner: CaseRunner, bundle: Bundle, reporter: RunReporter) -> BatchResult:
    by_name = {case.name: case for case in cases}
    outcomes = {name: Outcome(case=name, status=Status.NOT_RUN) for name in by_name}
    workers = min(runner.options.workers, len(cases))
    events = (
        _in_workers(cases, runner=runner, workers=workers, reporter=reporter)
        if workers > 1
        else _in_this_process(cases, runner=runner, bundle=bundle, reporter=reporter)
    )
    stopped = False
    try:
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Case):
                    reporter.case_started(event)
                    outcomes[event.name] = Outcome(case=event.name, status=Status.NOT_RUN, message=_UNDER_WAY)
                else:
                    outcomes[event.case] = event
                    reporter.case_finished(by_name[event.case], event)
    except (KeyboardInterrupt, Cancelled):
        stopped = True
    return BatchResult(outcomes=tuple(outcomes.values()), stopped=stopped)


def _in_this_process(cases: Sequence[Case], *, runner: CaseRunner, bundle: Bundle, reporter: RunReporter) -> _Events:
    for case in cases:
        yield case
        progress = partial(reporter.case_progress, case)
        note = partial(_note, reporter=reporter, case=case.name)
        yield runner.run(case, bundle=bundle, progress=progress, note=note)


def _in_workers(cases: Sequence[Case], *, runner: CaseRunner, workers: int, reporter: RunReporter) -> _Events:
    with contextlib.closing(run_in_workers(cases, runner=runner, workers=workers)) as messages:
        for message in messages:
            if isinstance(message, WorkerNote):
                _note(message.text, reporter=reporter, case=message.case)
            else:
                yield message


def _note(text: str, *, reporter: RunReporter, case: str) -> None:
    """Pass on a remark on a case."""
    reporter.note(joined(": ", (case, text)))
