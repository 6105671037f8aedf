"""summary.csv and run.json: what a whole run did."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..runtime import versions
from .folder import new_file
from .names import RUN_FILE, SUMMARY_FILE
from .one_case import Outcome
from .recorded_inputs import CASES_KEY

COLUMNS = (
    "case",
    "status",
    "poi_percent",
    "poi_left_percent",
    "poi_right_percent",
    "severity",
    "lung_ml",
    "infection_ml",
    "seconds",
    "device",
    "message",
)
_FROM_REPORT = {
    "poi_percent": ("poi_percent",),
    "poi_left_percent": ("regions", "left_lung", "poi_percent"),
    "poi_right_percent": ("regions", "right_lung", "poi_percent"),
    "severity": ("severity", "class"),
    "lung_ml": ("regions", "lungs", "volume_ml"),
    "infection_ml": ("regions", "lungs", "infection_ml"),
    "seconds": ("runtime", "seconds"),
    "device": ("runtime", "device"),
}


def write_summary(out_dir: Path, *, outcomes: Iterable[Outcome]) -> Path:
    """Write a row per case, in the order given; undefined figures are empty cells. Return the file's path."""
    path = out_dir / SUMMARY_FILE
    with new_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(outcome) for outcome in outcomes)
    return path


def write_run_record(
    out_dir: Path,
    *,
    model: dict[str, Any],
    device: str,
    options: dict[str, Any],
    times: dict[str, Any],
    inputs: dict[str, str],
) -> Path:
    """Write the record of a run: versions, model, device, options, start and duration, and each case's input by name.

    Returns:
        The file's path.
    """
    path = out_dir / RUN_FILE
    record = {"versions": versions(), "model": model, "device": device, "options": options, **times, CASES_KEY: inputs}
    with new_file(path) as partial:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"case": outcome.case, "status": outcome.status.value, "message": outcome.message}
    for column, keys in _FROM_REPORT.items():
        value: Any = outcome.report
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        row[column] = value
    return row
