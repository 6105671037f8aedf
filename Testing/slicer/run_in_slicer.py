"""The journeys of test_in_slicer.py inside the Slicer application:

    Slicer --no-splash --no-main-window --python-script Testing/slicer/run_in_slicer.py

Options of pytest follow `--`, such as `-- -k cancel`. On Linux without a display, put `xvfb-run -a` in front.
Slicer ends with 0 only if every journey that was found came to an end, none failed, and one at least passed:
a missing pytest, a wrong path or journeys that were all skipped are failures, too. ctest runs the same as a unit test.
"""

from __future__ import annotations

import sys
import traceback
import unittest
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JOURNEYS = Path(__file__).resolve().parent / "test_in_slicer.py"

FAILED = 1
"""Exit code if a journey failed, and if anything but the journeys went wrong."""


class Tally:
    """Counts, as a plugin of pytest, what became of the journeys: pytest itself is content if all are skipped."""

    def __init__(self) -> None:
        self.found = 0
        self.ended = 0
        self.outcomes: Counter[str] = Counter()

    def pytest_collection_finish(self, session: Any) -> None:
        """Note how many journeys will be run."""
        self.found = len(session.items)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a result; set-up and clean-up count if they went wrong, or if the journey was skipped there."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1

    def pytest_runtest_logfinish(self) -> None:
        """Note that a journey came to its end."""
        self.ended += 1

    def complaint(self) -> str:
        """Return why these results are no success; empty if they are."""
        if not self.found:
            return "no journey was found"
        if self.ended < self.found:
            return f"{self.found - self.ended} of {self.found} journeys were not run"
        if self.outcomes["failed"]:
            return f"{self.outcomes['failed']} failed"
        return "" if self.outcomes["passed"] else "none passed, all were skipped"


def run_journeys(options: Sequence[str] = (), *, journeys: Path = JOURNEYS) -> int:
    """Return 0 if the journeys were run and passed, else the code of pytest, or `FAILED`."""
    try:
        import pytest
    except ImportError:
        print(
            "CovidSeg journeys: FAILED, Slicer's Python has no pytest: PythonSlicer -m pip install pytest", flush=True
        )
        return FAILED
    tally = Tally()
    # Slicer's output streams are no files: pytest must neither redirect them nor write crash reports to them.
    quiet = ["--capture=no", "-p", "no:faulthandler", "-p", "no:cacheprovider"]
    code = int(pytest.main([str(journeys), *quiet, *options], plugins=[tally]))
    complaint = tally.complaint()
    if not code and complaint:
        code = FAILED
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items())) or "nothing run"
    verdict = f"FAILED ({complaint or f'pytest ended with {code}'})" if code else "passed"
    print(f"CovidSeg journeys: {verdict}; {counts}", flush=True)
    return code


def main(arguments: Sequence[str]) -> int:
    """Return the exit code for a command line; an error of any kind is a failure."""
    try:
        options = arguments[list(arguments).index("--") + 1 :] if "--" in arguments else []
        return run_journeys(options)
    except BaseException:
        # SystemExit as well: whoever asks for an end in the middle must not pass for success.
        traceback.print_exc()
        return FAILED


def leave(code: int) -> None:
    """End the process with the code; inside the application, Slicer has to do it.

    Not taken from CovidSeg, which has the same: Slicer must end, and with a failure, if CovidSeg cannot be imported.
    """
    try:
        import slicer
    except ImportError:
        sys.exit(code)
    if getattr(slicer, "app", None) is None:  # slicer-core has no application
        sys.exit(code)
    slicer.util.exit(code)


class JourneysTest(unittest.TestCase):
    """The same for ctest, which runs unit tests; without it ctest would find nothing to run, and be content."""

    def test_journeys(self) -> None:
        """Run all journeys."""
        self.assertEqual(run_journeys(), 0, "see the output above")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
