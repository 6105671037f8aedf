"""What the command line prints: results on stdout, errors on stderr, a progress bar on a terminal."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..cases.discovery import Case
from ..cases.one_case import Outcome, Status
from ..failures import explain, one_line

if TYPE_CHECKING:
    from ..progress import Progress

_PLAIN_PROGRESS_EVERY_S = 15.0
#: What is left of a run is told so often at most, and not if it is less.
_TIME_LEFT_EVERY_S = 60.0


def print_line(text: str, *, stream: TextIO | None = None) -> None:
    """Print one line; letters that the terminal's encoding lacks are escaped.

    Once the reader of the output is gone nothing more is printed, but the run goes on.
    """
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, errors="backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        if not reader_has_gone(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def reader_has_gone(error: OSError) -> bool:
    """Tell whether the reader of the output is gone, as in `covidseg segment ... | head`."""
    # On Windows it may be EINVAL instead, see https://github.com/python/cpython/issues/79935
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)


def print_error(text: str) -> None:
    """Print one error as one line on stderr."""
    print_line(f"covidseg: error: {one_line(text)}", stream=sys.stderr)


def print_failure(error: Exception, *, details: bool) -> None:
    """Print what went wrong and what to do, and with `details` the traceback, on stderr."""
    print_error(explain(error))
    if details:
        traceback.print_exception(error)


def with_hint(text: str, *, unexpected: bool, details: bool) -> str:
    """Return the text of an error; if it is unexpected and its details are not printed, also how to get these."""
    return f"{text}; --verbose prints the details" if unexpected and not details else text


class ConsoleReporter:
    """Reports a run: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, *, out_dir: Path, details: bool) -> None:
        """Print to stdout and stderr; with `details` also tracebacks and stages."""
        self._out_dir = out_dir
        self._details = details
        self._total = 0
        self._numbers: dict[str, int] = {}
        self._finished = 0
        self._pace = _Pace()
        self._stage = ""
        self._message = ""
        self._printed_at_s = 0.0
        self._bar = _open_bar()

    def run_started(self, *, total: int, device: str, model: str) -> None:
        """Print what is going to be done."""
        self._total = total
        self._pace = _Pace()
        self._line(f"{total} case{'s' * (total != 1)}, model {model}, device {device}, output {self._out_dir}")

    def case_started(self, case: Case) -> None:
        """Print the case's name and file."""
        self._stage = self._message = ""
        self._printed_at_s = time.monotonic()
        self._numbers[case.name] = len(self._numbers) + 1
        self._line(f"{self._place(case)}: {case.path}")
        self._show_cases()

    def case_progress(self, case: Case, progress: Progress) -> None:
        """Move the bar, or print a line now and then; a message is always printed."""
        if progress.message and progress.message != self._message:
            self._message = progress.message
            self.note(f"{case.name}: {progress.message}")
        if self._bar is not None:
            self._bar.total, self._bar.n = progress.total, progress.done
            self._bar.set_description_str(f"{self._place(case)}: {progress.stage}")
        else:
            now_s = time.monotonic()
            new_stage = self._details and progress.stage != self._stage
            if new_stage or now_s - self._printed_at_s > _PLAIN_PROGRESS_EVERY_S:
                self._printed_at_s = now_s
                self._line(f"  {case.name}: {progress}")
        self._stage = progress.stage

    def note(self, text: str) -> None:
        """Print a remark."""
        self._line(f"  {text}")

    def case_finished(self, case: Case, outcome: Outcome) -> None:
        """Print the result, or the error."""
        self._finished += 1
        self._show_cases()
        self._print_outcome(case, outcome)
        left_s = self._pace.seconds_left(outcome, remaining=self._total - self._finished)
        if left_s is not None:
            self.note(f"{self._finished} of {self._total} cases, about {left_s / 60:.0f} min left")

    def _print_outcome(self, case: Case, outcome: Outcome) -> None:
        if outcome.status is Status.FAILED:
            place = "" if str(case.path) in outcome.message else f" ({case.path})"
            problem = with_hint(outcome.message, unexpected=outcome.unexpected, details=self._details)
            self._error(f"case '{case.name}'{place}: {problem}")
            if self._details and outcome.details:
                self._line(outcome.details.rstrip(), stream=sys.stderr)
            return
        found = describe_report(outcome.report or {}, with_seconds=outcome.status is Status.DONE)
        skipped = "already complete, " if outcome.status is Status.SKIPPED else ""
        self._line(f"{self._place(case)}: {skipped}{found} -> {self._out_dir / case.name}")
        if outcome.message:
            self._line(f"  {case.name}: warning: {outcome.message}")

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _place(self, case: Case) -> str:
        """Return a case's number in the run and its name; with several workers cases end in another order."""
        return f"[{self._numbers[case.name]}/{self._total}] {case.name}"

    def _show_cases(self) -> None:
        """Show on the bar how many cases have ended, until a case tells of its own progress."""
        if self._bar is not None:
            self._bar.total, self._bar.n = self._total, self._finished
            self._bar.set_description_str(f"{len(self._numbers) - self._finished} under way, ended")

    def _error(self, text: str) -> None:
        self._line(f"covidseg: error: {one_line(text)}", stream=sys.stderr)

    def _line(self, text: str, *, stream: TextIO | None = None) -> None:
        if self._bar is not None:
            self._bar.clear()
        print_line(text, stream=stream)
        if self._bar is not None:
            self._bar.refresh()


class _Pace:
    """How long the rest of a run will take, from how long its cases took so far."""

    def __init__(self) -> None:
        """Start the clock."""
        self._started_s = self._told_s = time.monotonic()
        self._computed = 0

    def seconds_left(self, outcome: Outcome, *, remaining: int) -> float | None:
        """Return for how long the run will go on after this outcome; None if that need not be told now.

        Skipped cases take next to no time and say nothing of the others.
        """
        self._computed += outcome.status is not Status.SKIPPED
        now_s = time.monotonic()
        left_s = (now_s - self._started_s) / max(1, self._computed) * remaining
        if not self._computed or left_s < _TIME_LEFT_EVERY_S or now_s - self._told_s < _TIME_LEFT_EVERY_S:
            return None
        self._told_s = now_s
        return left_s


def describe_report(report: dict[str, Any], *, with_seconds: bool) -> str:
    """Return a result in a few words: POI, severity class, and the seconds it took unless that was in another run."""
    severity = report.get("severity") or {}
    seconds = (report.get("runtime") or {}).get("seconds")
    words = [f"POI {percent(report.get('poi_percent'))}", str(severity.get("class") or "severity n/a")]
    if with_seconds and isinstance(seconds, (int, float)):
        words.append(f"{seconds:.1f} s")
    return ", ".join(words)


def percent(value: float | None) -> str:
    """Return a percentage for people; undefined is n/a."""
    return "n/a" if value is None else f"{value:.1f} %"


def _open_bar() -> Any:
    """Return a tqdm bar on stderr if that is a terminal (and tqdm is there), else None."""
    if not getattr(sys.stderr, "isatty", lambda: False)():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=1, leave=False, bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}")
