"""How a run reports its progress, and how it is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import Cancelled


@dataclass(frozen=True)
class Progress:
    """One step of a run: its stage, and how many of its parts are done.

    Attributes:
        stage: "read", "preprocess", "network", "back", "quantify" or "write".
        done: Parts finished.
        total: Parts in all.
        message: Something the user should know, e.g. a change of device; empty otherwise.
    """

    stage: str
    done: int
    total: int
    message: str = ""

    def __str__(self) -> str:
        text = f"{self.stage} {self.done}/{self.total}"
        return f"{text}: {self.message}" if self.message else text


ProgressCallback = Callable[[Progress], object]
CancelledCallback = Callable[[], bool]


@dataclass(frozen=True)
class Reporter:
    """Reports progress, and cancels the run if the user asked for that; either callable may be missing."""

    progress: ProgressCallback | None = None
    cancelled: CancelledCallback | None = None

    def tell(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Report a step.

        Raises:
            Cancelled: The user asked to stop.
        """
        if self.cancelled is not None and self.cancelled():
            raise Cancelled
        if self.progress is not None:
            self.progress(Progress(stage, done, total, message))
