"""Compare results: the time points of one patient, with the change per week, or a result with the one it replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

DAYS_PER_WEEK = 7.0

#: Figures followed over time -> region and name in a report.
FIGURES: Mapping[str, tuple[str, str]] = {
    "poi_percent": ("lungs", "poi_percent"),
    "poi_left_percent": ("left_lung", "poi_percent"),
    "poi_right_percent": ("right_lung", "poi_percent"),
    "lung_ml": ("lungs", "volume_ml"),
    "left_lung_ml": ("left_lung", "volume_ml"),
    "right_lung_ml": ("right_lung", "volume_ml"),
    "infection_ml": ("lungs", "infection_ml"),
}


@dataclass(frozen=True)
class TimePoint:
    """A CT of the patient with its figures.

    Attributes:
        name: The user's name for it; never a patient's identity.
        report: `regions` and `severity` as in ``report.json``.
        study_date: The day of the CT, if known.
    """

    name: str
    report: Mapping[str, Any]
    study_date: date | None = None


@dataclass(frozen=True)
class FollowUpRow:
    """A time point compared with the previous one; what is undefined is None.

    Attributes:
        name: Of the time point.
        study_date: The day of the CT.
        days: Since the earliest time point with a date.
        figures: By the keys of `FIGURES`.
        severity: Class of both lungs together.
        change_per_week: Change of each figure since the previous row, in its unit per week (POI: percentage points);
            None in the first row, without two dates in ascending order, or if a figure is undefined.
    """

    name: str
    study_date: date | None
    days: int | None
    figures: Mapping[str, float | None]
    severity: str | None
    change_per_week: Mapping[str, float | None]


def follow_up(points: Sequence[TimePoint]) -> tuple[FollowUpRow, ...]:
    """Return a row per time point: by date if all have one, else in the order given."""
    ordered = in_order(points)
    first = min((point.study_date for point in ordered if point.study_date is not None), default=None)
    rows: list[FollowUpRow] = []
    for point in ordered:
        figures = figures_of(point.report)
        days = None if point.study_date is None or first is None else (point.study_date - first).days
        changes = _changes_per_week(rows[-1] if rows else None, figures=figures, days=days)
        severity = point.report["severity"]["class"]
        rows.append(FollowUpRow(point.name, point.study_date, days, figures, severity, changes))
    return tuple(rows)


def figures_of(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Return those figures of a report that are followed over time, by the keys of `FIGURES`."""
    regions = report["regions"]
    return {key: regions[region][name] for key, (region, name) in FIGURES.items()}


def in_order(points: Sequence[TimePoint]) -> tuple[TimePoint, ...]:
    """Return time points by date, those of equal date as given; if one has no date, all as given."""
    dated = [(point.study_date, index) for index, point in enumerate(points) if point.study_date is not None]
    if len(dated) < len(points):
        return tuple(points)
    return tuple(points[index] for _, index in sorted(dated))


def _changes_per_week(
    before: FollowUpRow | None, *, figures: Mapping[str, float | None], days: int | None
) -> dict[str, float | None]:
    """Return the change per week of each figure since the previous row."""
    if before is None or before.days is None or days is None or days <= before.days:
        return dict.fromkeys(figures)
    weeks = (days - before.days) / DAYS_PER_WEEK
    changes: dict[str, float | None] = {}
    for key, new in figures.items():
        old = before.figures.get(key)
        changes[key] = None if old is None or new is None else (new - old) / weeks
    return changes


@dataclass(frozen=True)
class PastResult:
    """The figures of a replaced result, kept for comparison with a later one of the same CT.

    Attributes:
        when: ISO date and time.
        figures: By the keys of `FIGURES`.
    """

    when: str
    figures: Mapping[str, float | None]
