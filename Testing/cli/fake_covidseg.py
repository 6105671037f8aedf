"""`covidseg` with the tiny test engine, as a program: to be killed, interrupted and started again.

With FAKE_WRITE_PAUSE_S in the environment it rests after every file, with FAKE_UNPACK_PAUSE_S after unpacking a zip, so
that a test can meet it there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from CovidSegLib import cli
from CovidSegLib.cases import batch
from CovidSegLib.cases import files as case_files
from CovidSegLib.readers import archive
from fake_engine import FAKE_ENGINE

_WRITERS = ("write_labelmap_nifti", "write_seg_nrrd", "write_preview_png", "write_report_csv", "write_report_json")


def _fake_engine() -> object:
    return FAKE_ENGINE


def _rest_after(step: Callable[..., Any], pause_s: float) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        time.sleep(pause_s)
        return result

    return wrapper


if "FAKE_WRITE_PAUSE_S" in os.environ:  # at file level, for worker processes too
    for _name in _WRITERS:
        setattr(case_files, _name, _rest_after(getattr(case_files, _name), float(os.environ["FAKE_WRITE_PAUSE_S"])))
if "FAKE_UNPACK_PAUSE_S" in os.environ:
    archive._extract_all = _rest_after(archive._extract_all, float(os.environ["FAKE_UNPACK_PAUSE_S"]))

if __name__ == "__main__":
    # A shell that starts the tests in the background has Ctrl-C ignored, which processes inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    batch.Engine = _fake_engine  # type: ignore[assignment,misc]
    sys.exit(cli.main())
