"""What a run cost: seconds per stage, peak memory, versions of what it ran with."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from . import __version__
from .device import describe_device

_PACKAGES = ("numpy", "simpleitk", "torch", "monai", "safetensors")


class Clock:
    """Seconds of each stage of a run."""

    def __init__(self) -> None:
        self.stages_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside as the stage `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages_s[name] = time.perf_counter() - started


def runtime_record(*, device: str, precision: str, mode: str, clock: Clock) -> dict[str, Any]:
    """Return the `runtime` section of a report."""
    return {
        "device": device,
        "device_name": describe_device(device),
        "precision": precision,
        "mode": mode,
        "seconds": sum(clock.stages_s.values()),
        "stages": dict(clock.stages_s),
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
    }


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Return the versions of CovidSeg, Python and the packages it computes with, without importing them.

    A package that is not installed is None.
    """
    found: dict[str, str | None] = {"covidseg": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def peak_memory_mb() -> float | None:
    """Return the highest resident memory of this process so far in MB, None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return _windows_peak_mb()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _windows_peak_mb() -> float | None:
    import ctypes

    class MemoryCounters(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("page_faults", ctypes.c_ulong)] + [
            (name, ctypes.c_size_t)
            for name in ("peak", "now", "peak_paged", "paged", "peak_fixed", "fixed", "page_file", "peak_page_file")
        ]

    counters = MemoryCounters(length=ctypes.sizeof(MemoryCounters))
    this_process = ctypes.c_void_p(-1)  # what GetCurrentProcess returns
    kernel = getattr(ctypes, "windll", None)
    if kernel is None or not kernel.kernel32.K32GetProcessMemoryInfo(
        this_process, ctypes.byref(counters), counters.length
    ):
        return None
    return float(counters.peak / 1e6)
