"""What the tests of the worker thread share: a timer turned by hand, and waiting for the end of a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from CovidSegLib.runner import Runner


@dataclass
class HandTimer:
    """A timer that the test turns by hand."""

    callback: Callable[[], None]
    active: bool = False

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False


def poll_until_over(runner: Runner) -> None:
    end_s = time.monotonic() + 20.0
    while runner.busy:
        assert time.monotonic() < end_s, "the job did not end"
        runner.poll()
        time.sleep(0.001)
