"""Run the command line in tests: in this process with the fake engine, or as a process to be killed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from CovidSegLib.cli import main
from fake_engine import FAKE_ENGINE

CLI_DIR = Path(__file__).resolve().parent
ROOT = CLI_DIR.parent.parent
CASE_FILES = {"segmentation.seg.nrrd", "labelmap.nii.gz", "report.json", "report.csv", "preview.png"}
#: How long a test waits for a process, in seconds.
PATIENCE_S = 60.0
_TIMES = ("seconds", "stages", "peak_memory_mb", "started", "workers", "overwrite")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `covidseg segment` use the fake engine, in this process and in its workers."""
    monkeypatch.setattr("CovidSegLib.cases.batch.Engine", lambda: FAKE_ENGINE)


def segment(*arguments: str | Path) -> int:
    """Run `covidseg segment` in this process; return its exit code."""
    return main(["segment", *map(str, arguments)])


def start_process(*arguments: str | Path, write_pause_s: float | None = None) -> subprocess.Popen[str]:
    """Start `covidseg segment` with the fake engine as a process of its own, resting after every file."""
    pause = {} if write_pause_s is None else {"FAKE_WRITE_PAUSE_S": str(write_pause_s)}
    return subprocess.Popen(
        [sys.executable, str(CLI_DIR / "fake_covidseg.py"), "segment", *map(str, arguments)],
        env={**os.environ, **pause, "PYTHONPATH": os.pathsep.join((str(ROOT / "CovidSeg"), str(CLI_DIR)))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds; fail if it never does."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "what the test waits for never came"
        time.sleep(0.002)


def summary(out: Path) -> list[dict[str, str]]:
    """Return the rows of summary.csv."""
    with (out / "summary.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def report_of(folder: Path) -> dict[str, Any]:
    """Return the report.json of a case."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def one_line_errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what is on stderr: errors of one line each."""
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("covidseg: error: ") for line in errors)
    return errors


def tree_without_times(out: Path) -> dict[str, Any]:
    """Return every file under `out`, hidden ones too, with its content but for times."""
    tree: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json":
            tree[name] = _without_times(json.loads(path.read_text(encoding="utf-8")))
        elif path.name == "report.csv":
            lines = path.read_text(encoding="utf-8").splitlines()
            tree[name] = [line for line in lines if not any(word in line for word in _TIMES)]
        elif path.name == "summary.csv":
            tree[name] = [{**row, "seconds": "", "status": ""} for row in summary(out)]
        else:
            tree[name] = path.read_bytes()
    return tree


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in _TIMES}
    return value


class Terminal:
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True
