"""Run many cases into an output folder: isolation of bad cases, resume, summary.csv and run.json."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .case_folder import recover
from .case_run import CaseRunner, Engine, Outcome, RunOptions, Status
from .cases import Case
from .errors import Cancelled, InputError
from .failures import explain
from .image_kinds import is_text
from .run_lock import run_lock
from .summary import write_run_record, write_summary
from .texts import joined
from .texts import text as _
from .workers import WorkerNote, run_in_workers

if TYPE_CHECKING:
    from .bundle import Bundle
    from .progress import Progress

#: Said of a case until it has ended, and so for good if the run is stopped before.
_UNDER_WAY = _("stopped by the user while it was under way")
#: A case with its outcome, or with None when it begins.
_Told = Generator[tuple[Case, Outcome | None], None, None]


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
    stopped: bool = False

    @property
    def failed(self) -> int:
        """The number of failed cases."""
        return sum(outcome.status is Status.FAILED for outcome in self.outcomes)


def run_batch(
    cases: Sequence[Case], *, options: RunOptions, reporter: RunReporter, engine: Engine | None = None
) -> BatchResult:
    """Segment the cases into `options.out_dir`; return how each ended.

    Ctrl-C ends the run early: summary.csv and run.json are written, the rest is "not run"; the message of a case that
    was under way says so.

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
    with run_lock(options.out_dir):
        for line in recover(options.out_dir):
            reporter.note(line)
        reporter.run_started(total=len(cases), device=device, model=f"{bundle.name} {bundle.version}")
        result = _run_all(cases, runner=CaseRunner(options=options, engine=engine), bundle=bundle, reporter=reporter)
        if result.stopped:
            recover(options.out_dir)
        write_summary(options.out_dir, outcomes=result.outcomes)
        write_run_record(
            options.out_dir,
            model={"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256},
            device=device,
            options=_options_as_json(options),
            times={
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - clock, 2),
            },
        )
    return result


def make_out_dir(out_dir: Path) -> None:
    """Make the output folder where it is not there yet, and make sure that it can be written to.

    Raises:
        InputError: It cannot, or the path leads to none (see `check_out_dir`).
    """
    check_out_dir(out_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        probe = out_dir / ".covidseg.write-test"
        probe.touch()
        probe.unlink(missing_ok=True)  # another run that starts now tries the same
    except OSError as error:
        raise InputError(_("the output folder cannot be written: {reason}").format(reason=explain(error))) from error


def check_out_dir(out_dir: Path) -> None:
    """Make sure that a folder is, or could be made, at the path.

    Raises:
        InputError: It is no text, that of a file, or it leads through a link to nothing.
    """
    if not is_text(out_dir):
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
    outcomes = {case.name: Outcome(case=case.name, status=Status.NOT_RUN) for case in cases}
    stopped = False
    several = min(runner.options.workers, len(cases)) > 1
    told = (
        _in_workers(cases, runner=runner, reporter=reporter)
        if several
        else _in_this_process(cases, runner=runner, bundle=bundle, reporter=reporter)
    )
    try:
        with contextlib.closing(told):
            for case, outcome in told:
                if outcome is None:
                    outcomes[case.name] = Outcome(case=case.name, status=Status.NOT_RUN, message=_UNDER_WAY)
                    continue
                outcomes[case.name] = outcome
                reporter.case_finished(case, outcome)
    except (KeyboardInterrupt, Cancelled):
        stopped = True
    return BatchResult(outcomes=tuple(outcomes.values()), stopped=stopped)


def _in_this_process(cases: Sequence[Case], *, runner: CaseRunner, bundle: Bundle, reporter: RunReporter) -> _Told:
    for case in cases:
        reporter.case_started(case)
        yield case, None

        def progress(update: Progress, *, case: Case = case) -> None:
            reporter.case_progress(case, update)

        def note(text: str, *, case: Case = case) -> None:
            reporter.note(joined(": ", (case.name, text)))

        yield case, runner.run(case, bundle=bundle, progress=progress, note=note)


def _in_workers(cases: Sequence[Case], *, runner: CaseRunner, reporter: RunReporter) -> _Told:
    by_name = {case.name: case for case in cases}
    workers = min(runner.options.workers, len(cases))
    with contextlib.closing(run_in_workers(cases, runner=runner, workers=workers)) as messages:
        for message in messages:
            if isinstance(message, WorkerNote):
                reporter.note(joined(": ", (message.case, message.text)))
            elif isinstance(message, Case):
                yield message, None
            else:
                yield by_name[message.case], message
