"""The report of a case, and how it is written as JSON and CSV.

Numbers are rounded here, for reading; severity classes come from the unrounded POI.
Undefined is null in JSON and "n/a" in CSV. Nothing here names a patient.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import DISCLAIMER
from .anatomy.field_of_view import CROPPED, NOT_SCANNED_WHOLE
from .geometry import Geometry
from .quantify import Quantities

NOT_AVAILABLE = "n/a"

#: Decimals kept, by the unit a key ends in; any other number is written in full.
_DECIMALS = {"percent": 4, "ml": 3, "g": 2, "hu": 2, "seconds": 3, "mb": 1}

#: Sections whose numbers are not rounded: they are compared rather than read.
_EXACT_SECTIONS = frozenset(("geometry", "input", "model", "options", "versions"))
_UNKNOWN_MODEL = dict.fromkeys(("name", "version", "sha256", "fingerprint"))
_UNITS = {"percent": "%", "seconds": "s", "hu": "HU", "mb": "MB", "mm": "mm", "ml": "ml", "g": "g"}


def build_report(
    *,
    case: str,
    quantities: Quantities,
    geometry: Geometry,
    fingerprint: str,
    model: Mapping[str, Any] | None,
    runtime: Mapping[str, Any],
    warnings: Sequence[str] = (),
    input_details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of a case, ready for JSON.

    Args:
        case: Name of the case, from its file or folder.
        quantities: Its numbers.
        geometry: Grid of CT and labelmap.
        fingerprint: Of the input's bytes, "sha256:...".
        model: `Bundle.to_dict`; None if it is not known which model found the labels.
        runtime: device, mode, seconds, stages, peak_memory_mb, versions, and options if any.
        warnings: What a reader of the numbers must know, a sentence each.
        input_details: More on the input, e.g. which DICOM series; never a patient's identity.
    """
    report = {
        "case": case,
        **quantities.to_dict(),
        "geometry": {
            "size_ijk": geometry.size_ijk,
            "spacing_ijk_mm": geometry.spacing_ijk_mm,
            "origin_lps_mm": geometry.origin_lps_mm,
            "direction_lps": geometry.direction_lps,
        },
        "input": {"fingerprint": fingerprint, **(input_details or {})},
        "model": dict(model or _UNKNOWN_MODEL),
        "runtime": dict(runtime),
        "warnings": list(warnings),
        "disclaimer": DISCLAIMER,
    }
    return {key: _plain(value, key=key) for key, value in report.items()}


def renewed_warnings(
    earlier: Mapping[str, Any], *, quantities: Quantities, now: Sequence[str] = (), note: str = ""
) -> tuple[str, ...]:
    """Return the warnings, each once, for a report whose segments were corrected and measured again.

    Warnings of the run stay. Those that followed from its figures are left out, as the figures are replaced.

    Args:
        earlier: The report of the run, or of the last measurement; may be empty.
        quantities: The new figures.
        now: Warnings on the CT and on what it shows of the lungs (`field_of_view_warnings`).
        note: A last sentence that says what was measured.
    """
    gone = {note, CROPPED, NOT_SCANNED_WHOLE, *_warnings_of_figures(earlier, like=quantities)}
    run = [text for text in earlier.get("warnings", ()) if isinstance(text, str) and text not in gone]
    return tuple(dict.fromkeys((*now, *run, *quantities.warnings(), *([note] if note else []))))


def _warnings_of_figures(report: Mapping[str, Any], *, like: Quantities) -> tuple[str, ...]:
    """Return the warnings that follow from the figures in a report: missing lungs, lungs too large for a patient."""
    try:
        regions = {
            name: dataclasses.replace(getattr(like, name), volume_ml=part["volume_ml"], poi_percent=part["poi_percent"])
            for name, part in report["regions"].items()
        }
        return dataclasses.replace(like, **regions).warnings()
    except (LookupError, AttributeError, TypeError):  # there is no report yet, or none written by `build_report`
        return ()


def write_report_json(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON: keys in the order given, UTF-8, equal bytes on every system, a newline at the end."""
    text = json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8", newline="\n")


def write_report_csv(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write the report as rows of key, value, unit; keys are those of the JSON, joined by dots."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("key", "value", "unit"))
        for key, value in _flat(_plain(report)):
            writer.writerow((key, NOT_AVAILABLE if value is None else value, _UNITS.get(_unit_of(key), "")))


def _plain(value: Any, *, key: str = "") -> Any:
    """Return `value` in Python's own types, numbers rounded by their unit; those that are not finite become None.

    Args:
        value: Anything JSON can hold, numpy numbers, tuples and paths.
        key: Dotted key of `value` in the report, see `_unit_of`.
    """
    if isinstance(value, Mapping):
        return {str(name): _plain(item, key=_dotted(key, str(name))) for name, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item, key=_dotted(key, "")) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if not math.isfinite(number):
            return None
        decimals = None if _EXACT_SECTIONS.intersection(key.split(".")[:-1]) else _DECIMALS.get(_unit_of(key))
        return number if decimals is None else round(number, decimals)
    return str(value) if isinstance(value, Path) else value


def _dotted(key: str, name: str) -> str:
    """Return the dotted key of a part, by its name; the report as a whole has the key ""."""
    return f"{key}.{name}" if key else name


def _unit_of(key: str) -> str:
    """Return the unit of the number under a dotted key: its last word, except in the sections `hu` and `stages`."""
    *parents, name = key.split(".")
    if "hu" in parents:
        return "hu"
    return "seconds" if "stages" in parents else name.rsplit("_", 1)[-1]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves with their dotted keys; a list of numbers is one leaf, of texts several."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, _dotted(key, name))
    elif isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
        if value:
            yield key, " ".join(str(item) for item in value)
    elif isinstance(value, list):
        for number, item in enumerate(value, start=1):
            yield from _flat(item, _dotted(key, str(number)))
    else:
        yield key, value
