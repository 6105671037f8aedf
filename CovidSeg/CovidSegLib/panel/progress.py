"""How far a run has come, and how long it will still take; without Qt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..progress import Progress

PERMILLE = 1000

#: Where each stage begins and ends on the bar, in permille; the network is nearly all of the work.
_STAGES = {"read": (0, 20), "preprocess": (20, 80), "network": (80, 920), "back": (920, 970), "quantify": (970, 990)}


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        permille: Of the whole run.
        stage: "read", "preprocess", "network", "back", "quantify" or "write".
        done: Patches done, in the stage "network".
        total: Patches in all, in the stage "network".
        left_s: Seconds that the network will still take; None before it is known.
    """

    permille: int
    stage: str
    done: int
    total: int
    left_s: float | None


class RunClock:
    """Turns a run's progress into its position; the time left is reckoned from the patches done so far."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        """Measure time by `now_s`."""
        self._now_s = now_s
        self._started_s = now_s()
        self._first: tuple[float, int] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._now_s() - self._started_s

    def update(self, progress: Progress) -> Position:
        """Return the position after a step of the run."""
        start, end = _STAGES.get(progress.stage, (990, PERMILLE))
        share = progress.done / progress.total if progress.total else 0.0
        return Position(
            permille=round(start + (end - start) * min(1.0, share)),
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            left_s=self._left_s(progress) if progress.stage == "network" else None,
        )

    def _left_s(self, progress: Progress) -> float | None:
        """Return the time left if the remaining patches take as long, on average, as those after the first."""
        if self._first is None or progress.done < self._first[1] or progress.message:
            # The first patch also warms up; a message means that the network starts again on another device.
            self._first = None if progress.done == 0 else (self._now_s(), progress.done)
            return None
        started_s, first = self._first
        done = progress.done - first
        return (self._now_s() - started_s) / done * (progress.total - progress.done) if done > 0 else None
