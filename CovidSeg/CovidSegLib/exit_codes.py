"""Exit codes of the command line."""

from __future__ import annotations

OK = 0
FAILED = 1
"""Some case failed."""
USAGE = 2
"""The arguments are wrong, an INPUT is missing or empty, or a device is absent."""
STOPPED = 130
"""Ctrl-C, as shells have it (128 + SIGINT)."""
