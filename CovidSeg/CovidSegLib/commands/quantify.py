"""`covidseg quantify`: the figures of a CT and its segmentation, also after a correction by hand."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import DISCLAIMER
from ..cases.batch import check_out_dir
from ..cases.folder import new_file
from ..cases.names import RUN_FILE
from ..cases.run_lock import run_lock
from ..cases.state import REPORT_CSV_FILE, REPORT_JSON_FILE, SEGMENTATION_FILE, read_report
from ..errors import CovidSegError, InputError
from ..runtime import versions
from .console import percent, print_error, print_failure, print_line
from .exit_codes import FAILED, OK, USAGE

if TYPE_CHECKING:
    from ..quantify import Quantities
    from ..volume import CTVolume

#: How often, and how long apart, the folder is tried while another run holds it: another `quantify` needs an instant
#: only, a `segment` much longer than it is worth waiting for.
_LOCK_TRIES, _LOCK_PAUSE_S = 20, 0.1
_CORRECTED = "Figures of a segmentation given to `covidseg quantify`; the other files here may show an earlier state."


def run_quantify(arguments: argparse.Namespace) -> int:
    """Run `covidseg quantify` and return its exit code."""
    wrong = _why_unusable(arguments)
    if wrong is not None:
        print_error(wrong)
        return USAGE
    try:
        started_s = time.perf_counter()
        measured = _state_of(arguments.segmentation)
        ct, quantities, warnings = _measure(arguments.ct, arguments.segmentation, series=arguments.series)
        for line in _table(quantities):
            print_line(line)
        for warning in (*warnings, *quantities.warnings()):
            print_line(f"warning: {warning}")
        if arguments.output is not None:
            seconds = time.perf_counter() - started_s
            with _sole_writer(arguments.output):
                if _state_of(arguments.segmentation) != measured:
                    raise InputError(
                        f"SEGMENTATION '{arguments.segmentation}' was replaced while it was measured: run this again."
                    )
                _write(arguments.output, ct=ct, quantities=quantities, warnings=warnings, seconds=seconds)
    except (CovidSegError, OSError, MemoryError) as error:
        print_failure(error, details=arguments.verbose)
        return FAILED
    print_line(DISCLAIMER)
    return OK


def _why_unusable(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong with the paths given, None if nothing is."""
    for name, path in (("CT", arguments.ct), ("SEGMENTATION", arguments.segmentation)):
        if not path.exists():
            return f"{name} '{path}' does not exist: check the path."
    if arguments.segmentation.is_dir():
        inside = arguments.segmentation / SEGMENTATION_FILE
        give = f"'{inside}'" if inside.is_file() else "a .seg.nrrd or labelmap file"
        return f"SEGMENTATION '{arguments.segmentation}' is a folder: give {give}."
    if arguments.output is not None:
        try:
            check_out_dir(arguments.output)
        except InputError as error:
            return str(error)
    return None


def _measure(
    ct_path: Path, segmentation_path: Path, *, series: str | None
) -> tuple[CTVolume, Quantities, tuple[str, ...]]:
    """Return the CT in HU, the figures, and warnings about the CT and about parts of the lungs that it does not show.

    Raises:
        InputError: A file cannot be read, or the two lie on different grids.
    """
    from ..anatomy.chest import chest_in
    from ..anatomy.field_of_view import field_of_view_warnings
    from ..intensity import to_hounsfield
    from ..quantify import quantify
    from ..results.segmentation_reader import read_segmentation
    from ..volume import read_ct

    ct = read_ct(ct_path, series=series)
    masks = read_segmentation(segmentation_path).placed_on(ct.geometry)
    ct = to_hounsfield(ct)
    quantities = quantify(
        ct.hu_kji,
        geometry=ct.geometry,
        left_kji=masks.left_kji,
        right_kji=masks.right_kji,
        infection_kji=masks.infection_kji,
    )
    chest = chest_in(ct.hu_kji, geometry=ct.geometry)
    unseen = field_of_view_warnings(masks.to_labelmap(), geometry=ct.geometry, chest=chest)
    return ct, quantities, (*ct.warnings, *unseen)


def _table(quantities: Quantities) -> Iterator[str]:
    from ..report import NOT_AVAILABLE

    yield f"{'region':<12}{'volume ml':>12}{'infection ml':>14}{'POI':>10}"
    for name, region in (
        ("lungs", quantities.lungs),
        ("left lung", quantities.left_lung),
        ("right lung", quantities.right_lung),
    ):
        yield f"{name:<12}{region.volume_ml:>12.1f}{region.infection_ml:>14.1f}{percent(region.poi_percent):>10}"
    composition, severity = quantities.composition, quantities.severity
    yield f"ground glass {composition.ground_glass_ml:.1f} ml, consolidation {composition.consolidation_ml:.1f} ml"
    worse = severity.worse_lung_class or NOT_AVAILABLE
    yield f"severity {severity.overall_class or NOT_AVAILABLE} (percentage class; the worse lung: {worse})"


def _state_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from the one that takes its place, size and time; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_size, found.st_mtime_ns)


@contextlib.contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other runs from writing to it.

    A `covidseg segment` that replaces a case meanwhile would leave the new segmentation with figures of the old one. It
    holds the folder that the cases are in, which its run.json tells.

    Raises:
        InputError: Another run is writing there.
    """
    folder = folder.resolve()
    runs = (place for place in (folder, folder.parent) if (place / RUN_FILE).is_file() and os.access(place, os.W_OK))
    held = next(runs, folder)
    held.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for tries_left in reversed(range(_LOCK_TRIES)):
            try:
                stack.enter_context(run_lock(held))
                break
            except InputError:
                if not tries_left:
                    raise
                time.sleep(_LOCK_PAUSE_S)
        folder.mkdir(exist_ok=True)  # not before: a run that replaces the case has moved it away for a moment
        yield


def _write(folder: Path, *, ct: CTVolume, quantities: Quantities, warnings: tuple[str, ...], seconds: float) -> None:
    """Write report.json and report.csv; in a case's own folder the new figures replace the old.

    Raises:
        InputError: The folder holds a report of another CT or series, or a damaged one.
    """
    from ..report import build_report, renewed_warnings, write_report_csv, write_report_json

    earlier = _earlier_report(folder, ct=ct)
    # Model and options stay as recorded, so that `covidseg segment` still regards the case as complete.
    runtime: dict[str, Any] = earlier.get("runtime") or _runtime(seconds)
    report = build_report(
        case=str(earlier.get("case") or ct.name),
        quantities=quantities,
        geometry=ct.geometry,
        fingerprint=ct.fingerprint,
        model=earlier.get("model"),
        runtime=runtime,
        input_details={} if ct.series is None else {"series": ct.series},
        warnings=renewed_warnings(earlier, quantities=quantities, now=warnings, note=_CORRECTED),
    )
    for name, write in ((REPORT_CSV_FILE, write_report_csv), (REPORT_JSON_FILE, write_report_json)):
        with new_file(folder / name) as partial:
            write(partial, report)
        print_line(f"wrote {folder / name}")


def _earlier_report(folder: Path, *, ct: CTVolume) -> dict[str, Any]:
    """Return the report in the folder; empty if there is none.

    Raises:
        InputError: The report is damaged, or of another CT or series.
    """
    path = folder / REPORT_JSON_FILE
    report = read_report(folder)
    if report is None:
        if path.exists():
            raise InputError(f"'{path}' is damaged, or no report of CovidSeg: remove it, or choose another -o OUT.")
        return {}
    if report["input"].get("fingerprint") != ct.fingerprint:
        raise InputError(f"'{path}' is the report of another CT: choose another -o OUT.")
    series = report["input"].get("series")
    if series != ct.series:
        raise InputError(
            f"'{path}' is the report of series '{series}', the CT read is series '{ct.series}': choose with --series."
        )
    return report


def _runtime(seconds: float) -> dict[str, Any]:
    """Return the section `runtime` of a measurement without a network."""
    return {
        "device": None,
        "device_name": None,
        "precision": None,
        "mode": None,
        "seconds": seconds,
        "stages": {"quantify": seconds},
        "peak_memory_mb": None,
        "versions": versions(),
    }
