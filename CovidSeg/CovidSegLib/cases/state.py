"""What a case folder holds, and whether it is the complete result of the run that was asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from ..errors import InputError
from ..texts import Text
from ..texts import text as _
from .folder import is_leftover
from .run_lock import LOCK_NAME

SEGMENTATION_FILE = "segmentation.seg.nrrd"
LABELMAP_FILE = "labelmap.nii.gz"
REPORT_JSON_FILE = "report.json"
REPORT_CSV_FILE = "report.csv"
PREVIEW_FILE = "preview.png"
UNCERTAINTY_FILE = "uncertainty.nii.gz"
CASE_FILES = (
    SEGMENTATION_FILE,
    LABELMAP_FILE,
    REPORT_JSON_FILE,
    REPORT_CSV_FILE,
    PREVIEW_FILE,
    UNCERTAINTY_FILE,
)

#: Sections that resuming, summary and console rely on, with their types in a report.json of ours.
_SECTIONS: dict[str, type | tuple[type, ...]] = {
    "poi_percent": (float, int, NoneType),
    "regions": dict,
    "severity": dict,
    "input": dict,
    "model": dict,
    "runtime": dict,
    "warnings": list,
}
_CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini")
#: How macOS calls what it keeps of a file beside it, on drives and shares of other systems.
_APPLE_DOUBLE = "._"


@dataclass(frozen=True)
class CaseKey:
    """What a case's result depends on; recorded in its report and compared on resuming.

    Attributes:
        fingerprint: Of the input's bytes.
        bundle_fingerprint: Of the model bundle.
        options: The user's options that change voxels, as asked for: mode, device, and series if one was chosen.
    """

    fingerprint: str
    bundle_fingerprint: str
    options: dict[str, str]


def files_of_case(*, preview: bool, uncertainty: bool = False) -> tuple[str, ...]:
    """Return the names of the files that a complete case folder has; it may hold the others, too."""
    is_wanted = {PREVIEW_FILE: preview, UNCERTAINTY_FILE: uncertainty}
    return tuple(name for name in CASE_FILES if is_wanted.get(name, True))


def read_report(folder: Path) -> dict[str, Any] | None:
    """Return the folder's report.json; None if there is none, it cannot be read, or is no report of ours."""
    try:
        report = json.loads((folder / REPORT_JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(report, dict) or not all(isinstance(report.get(key), kind) for key, kind in _SECTIONS.items()):
        return None
    return report


def holds_result(folder: Path) -> bool:
    """Tell whether the folder holds a report of ours, or a damaged one beside its labelmap."""
    return read_report(folder) is not None or all(
        (folder / name).is_file() for name in (REPORT_JSON_FILE, LABELMAP_FILE)
    )


def why_incomplete(folder: Path, *, key: CaseKey, preview: bool, uncertainty: bool = False) -> Text | None:
    """Return why the folder is not the complete result for `key`, or None if it is."""
    files = files_of_case(preview=preview, uncertainty=uncertainty)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        return _("{file} is missing").format(file=missing[0])
    report = read_report(folder)
    if report is None:
        return _("{file} cannot be read").format(file=REPORT_JSON_FILE)
    if report["input"].get("fingerprint") != key.fingerprint:
        return _("the input has changed")
    if report["model"].get("fingerprint") != key.bundle_fingerprint:
        return _("the model has changed")
    recorded = report["runtime"].get("options")
    if not isinstance(recorded, dict):
        return _("{file} does not say with which options it was made").format(file=REPORT_JSON_FILE)
    for option in sorted({*key.options, *recorded}):
        before, now = recorded.get(option), key.options.get(option)
        if before != now:
            return _("option {option} has changed from {before} to {now}").format(option=option, before=before, now=now)
    return None


def refuse_foreign_files(folder: Path) -> None:
    """Make sure that replacing the folder deletes nothing but CovidSeg's files and what systems leave in any folder.

    Raises:
        InputError: Something of the user's is in the folder: any other file, or a folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(
            _(
                "'{path}' is a file where the case's folder should be: move it, or choose another output folder "
                "(-o OUT)."
            ).format(path=folder)
        )
    foreign = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() or not _is_own(entry.name)]
    if foreign:
        raise InputError(
            _(
                "folder '{folder}' is in the way and holds other files ('{file}'), which CovidSeg does not "
                "delete: move them, or choose another output folder (-o OUT)."
            ).format(folder=folder, file=foreign[0].name)
        )


def _is_own(file_name: str) -> bool:
    """Tell whether a file of a case folder is CovidSeg's, or what a system leaves in any folder."""
    return (
        file_name in (*CASE_FILES, *_CLUTTER, LOCK_NAME)
        or file_name.startswith(_APPLE_DOUBLE)
        or is_leftover(file_name)
    )
