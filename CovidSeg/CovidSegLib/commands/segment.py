"""`covidseg segment`: find the cases, run them, print where the results are."""

from __future__ import annotations

import argparse

from .. import DISCLAIMER
from ..cases.batch import BatchResult, run_batch
from ..cases.discovery import discover_cases
from ..cases.names import RUN_FILE, SUMMARY_FILE
from ..cases.one_case import Outcome, RunOptions, Status
from ..errors import CovidSegError
from ..failures import explain
from .console import ConsoleReporter, print_error, print_failure, print_line
from .exit_codes import FAILED, OK, STOPPED, USAGE


def run_segment(arguments: argparse.Namespace) -> int:
    """Run `covidseg segment` and return its exit code."""
    options = RunOptions(
        out_dir=arguments.output,
        mode=arguments.mode,
        device=arguments.device,
        bundle=arguments.bundle,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
        preview=arguments.preview,
        series=arguments.series,
        uncertainty=arguments.uncertainty,
    )
    reporter = ConsoleReporter(out_dir=options.out_dir, details=arguments.verbose)
    try:
        found = discover_cases(arguments.inputs, out_dir=options.out_dir)
        for note in found.notes:
            reporter.note(note)
        result = run_batch(found.cases, options=options, reporter=reporter)
    except CovidSegError as error:
        print_failure(error, details=arguments.verbose)
        return USAGE
    except OSError as error:  # summary.csv or run.json, such as a full disk or a table open in a spreadsheet
        print_failure(error, details=arguments.verbose)
        return FAILED
    finally:
        reporter.close()
    return _conclude(result, options=options)


def _conclude(result: BatchResult, *, options: RunOptions) -> int:
    endings = [_ending(outcome) for outcome in result.outcomes]
    words = ("done", "skipped", "failed", "stopped", "not run")
    print_line(", ".join(f"{endings.count(word)} {word}" for word in words if word in endings))
    print_line(f"summary: {options.out_dir / SUMMARY_FILE}, run: {options.out_dir / RUN_FILE}")
    print_line(DISCLAIMER)
    if result.stopped:
        print_error(explain(KeyboardInterrupt()))
        return STOPPED
    return FAILED if result.failed else OK


def _ending(outcome: Outcome) -> str:
    """Return how a case ended, in a word; of cases that did not run, only one that was under way has a message."""
    return "stopped" if outcome.status is Status.NOT_RUN and outcome.message else outcome.status.value
