"""Python's cyclic garbage, collected on the main thread alone while a worker computes.

Python collects on whichever thread happens to allocate, and frees there what it finds, objects of other modules too;
Qt's and VTK's have to be freed on the main thread.
"""

from __future__ import annotations

import gc


class MainThreadGarbage:
    """Keeps collections off the workers of one panel; every method is for the main thread."""

    def __init__(self) -> None:
        self._workers = 0
        self._was_automatic = False

    def worker_begins(self) -> None:
        """Collect by `collect` only, until as many workers have ended as began."""
        if self._workers == 0:
            self._was_automatic = gc.isenabled()
            gc.disable()
        self._workers += 1

    def worker_ended(self) -> None:
        """Leave collecting to Python again, if this was the last worker."""
        self._workers -= 1
        if self._workers == 0 and self._was_automatic:
            gc.enable()

    def collect(self) -> None:
        """Collect young garbage if Python would by now; the old waits for the workers' end, as it takes a while."""
        for generation in (1, 0):
            if gc.get_count()[generation] > gc.get_threshold()[generation] > 0:
                gc.collect(generation)
                return
