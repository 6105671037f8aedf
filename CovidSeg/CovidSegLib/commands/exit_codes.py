"""Exit codes of the command line."""

from __future__ import annotations

OK = 0
#: Some case failed.
FAILED = 1
#: The arguments are wrong, an INPUT is missing or empty, or a device is absent.
USAGE = 2
#: Ctrl-C, as shells have it (128 + SIGINT); SIGTERM is taken for one.
STOPPED = 130
