"""Files that the panel writes: the table as text or CSV, and a case folder like the command line's; without Qt."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cases.names import safe_case_name
from ..geometry import Geometry
from ..quantify import Quantities
from ..report import NOT_AVAILABLE, build_report
from ..results.segment_masks import SegmentMasks
from ..scenes.table import column_meanings, figures_of_region, region_names

CORRECTED = "The segments were corrected by hand in 3D Slicer after the network made them."


@dataclass(frozen=True)
class CaseSource:
    """What a case report is made of, independent of the scene.

    Attributes:
        name: The CT's.
        stored: The report of the run that made the segments, if any.
        warnings: About the figures.
        quantities: The figures of the segments as they are now.
        hu_kji: (k, j, i) the CT in HU.
        masks: The segments on the CT's grid.
        edited: Whether the segments were corrected by hand.
        uncertainty: None; the map of uncertainty belongs to the run, and stays in the scene.
    """

    name: str
    stored: Mapping[str, Any] | None
    warnings: Sequence[str]
    quantities: Quantities
    hu_kji: np.ndarray
    masks: SegmentMasks
    edited: bool
    uncertainty: None = None

    @property
    def labelmap(self) -> np.ndarray:
        """(k, j, i) exclusive labels, as a run's result has them."""
        return self.masks.to_labelmap()

    @property
    def geometry(self) -> Geometry:
        """The CT's grid."""
        return self.masks.geometry

    def report(self) -> dict[str, Any]:
        """Return the content of report.json: the present figures, with model and runtime of the run."""
        stored = self.stored or {}
        warnings = [*self.warnings, *([CORRECTED] if self.edited else [])]
        given = dict(stored.get("input") or {})
        fingerprint = str(given.pop("fingerprint", ""))
        return build_report(
            case=safe_case_name(self.name),  # like the folder; the CT may have been renamed since the run
            quantities=self.quantities,
            geometry=self.geometry,
            fingerprint=fingerprint,
            model=stored.get("model"),
            runtime=stored.get("runtime") or {"device": None, "mode": None, "seconds": None},
            warnings=warnings,
            input_details=given,
        )


def save_case(
    *, source: CaseSource, folder: str, progress: Callable[[Any], None], cancelled: Callable[[], bool]
) -> Path:
    """Write the case into a new folder below `folder` and return its path; an earlier one is kept beside it.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    from ..cases.files import write_case_files
    from ..cases.folder import new_case_folder

    target = _free_folder(Path(folder), name=source.name)
    runtime = (source.stored or {}).get("runtime") or {}
    options = {key: str(runtime[key]) for key in ("mode", "device") if runtime.get(key)}
    with new_case_folder(target) as partial:
        write_case_files(partial, result=source, recorded_options=options, preview=True)
    return target


def save_table(path: str | Path, *, figures: Mapping[str, Any]) -> None:
    """Write the figures as CSV, a row per region, to four decimals; undefined is n/a."""
    from ..cases.folder import new_file

    with new_file(Path(path)) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows(_rows(figures))


def table_text(figures: Mapping[str, Any]) -> str:
    """Return the figures with tabs between the columns, for a document or a spreadsheet."""
    return "\n".join("\t".join(str(cell) for cell in row) for row in _rows(figures)) + "\n"


def _rows(figures: Mapping[str, Any]) -> list[list[Any]]:
    """Return the names of the columns, then a row per region; in English, as in report.json."""
    rows: list[list[Any]] = [[name for name, _unit, _meaning in column_meanings()]]
    for key in region_names():
        values = figures_of_region(figures["regions"][key])
        rows.append([key, *(NOT_AVAILABLE if value is None else round(value, 4) for value in values)])
    return rows


def _free_folder(parent: Path, *, name: str) -> Path:
    """Return a folder that does not exist yet, named after the case."""
    stem, number = safe_case_name(name), 1
    while (target := parent / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return target
