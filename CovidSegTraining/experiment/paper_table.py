"""The paper's Table 1 from per-case scores, and a second table with mean and median over all cases.

Table 1 has for each fold the median over its cases, class by class; "lungs" is the mean of the left and the right
median, and AVG the mean over the folds. A median of four cases hides one that failed, hence the second table.
Source: paper, section "Results", Table 1.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from CovidSegLib.errors import InputError

from ..report_parts import markdown_table, text_table
from ..scores import mean
from ..splits import Fold
from .case_scores import SCORES, SURFACE_SCORE, SURFACE_TOLERANCE_MM, CaseScores

PAPER_TABLE = Path(__file__).parents[1] / "configs" / "table1_paper.json"

REGIONS = {"lungs": ("lung_L", "lung_R"), "infection": ("infection",)}
COLUMNS = tuple((region, score) for region in REGIONS for score in ("DSC", "Sens", "Spec"))
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sheet:
    """A table as it is printed."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return title, table and notes for the terminal."""
        return "\n".join([self.title, text_table(self.header, self.rows), *self.notes]) + "\n"

    def to_markdown(self) -> str:
        """Return title, table and notes in Markdown."""
        table, notes = markdown_table(self.header, self.rows), (f"- {note}" for note in self.notes)
        return "\n".join([f"**{self.title}**", "", table, "", *notes]).rstrip() + "\n"


@dataclass(frozen=True)
class Estimate:
    """A figure over cases, with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Overall:
    """Mean and median of a score of a region over all cases in which it is defined."""

    region: str
    score: str
    defined: int
    undefined: tuple[str, ...]
    mean: Estimate
    median: Estimate


def fold_table(cases: Sequence[CaseScores], *, folds: Sequence[Fold]) -> np.ndarray:
    """Return Table 1: a row per fold and one for the average, columns as `COLUMNS`.

    Cases in which a score is undefined are left out of the fold's median. If it is undefined in all cases of a fold,
    the fold has NaN there and is left out of the average.

    Raises:
        InputError: A fold's case has no scores, or a case with scores is in no fold.
    """
    by_name = {case.case: case for case in cases}
    check_same_cases(by_name, folds=folds)
    rows = [
        [_median_of_fold([by_name[name] for name in fold.validation], region, score) for region, score in COLUMNS]
        for fold in folds
    ]
    return np.array([*rows, [mean(list(column)) for column in zip(*rows, strict=True)]])


def check_same_cases(names: Iterable[str], *, folds: Sequence[Fold]) -> None:
    """Make sure that the scored cases are those that the folds measure.

    Raises:
        InputError: A fold's case has no scores, or a case with scores is in no fold.
    """
    scored = set(names)
    for number, fold in enumerate(folds):
        if missing := [name for name in fold.validation if name not in scored]:
            raise InputError(
                f"fold_{number}: no scores for case '{missing[0]}'. Score all cases, or give folds made for these "
                "('covidseg-train split'), or none."
            )
    if extra := sorted(scored - {name for fold in folds for name in fold.validation}):
        raise InputError(
            f"case '{extra[0]}' has scores, but is in no fold's validation. Give the folds it was run with."
        )


def differing_from_paper(table: np.ndarray) -> list[tuple[int, int]]:
    """Return the cells (row, column) of the paper's own Table 1 that the paper prints with another value.

    A table is taken for the paper's own if all of its cells but one agree with the printed ones; any other table gives
    no cells.
    """
    printed = paper_rows()
    if table.shape != (len(printed), len(COLUMNS)):
        return []
    cells = [
        (row, column)
        for row, texts in enumerate(printed)
        for column, text in enumerate(texts)
        if _number(table[row, column]) != text
    ]
    return cells if len(cells) == 1 else []


def paper_rows() -> list[list[str]]:
    """Return Table 1 as the paper prints it: five folds and the average, columns as `COLUMNS`."""
    rows: list[list[str]] = json.loads(PAPER_TABLE.read_text(encoding="utf-8"))["rows"]
    return rows


def table_sheet(table: np.ndarray) -> Sheet:
    """Return Table 1 as it is printed; folds count from 1, as in the paper."""
    marked = differing_from_paper(table)
    names = [*(str(number) for number in range(1, len(table))), "AVG"]
    rows = tuple(
        (name, *(_number(value) + "*" * ((row, column) in marked) for column, value in enumerate(table[row])))
        for row, name in enumerate(names)
    )
    notes = [
        f"{_number(table[row, column])}*: {table[row, column]:.4f} from these scores; the paper prints "
        f"{paper_rows()[row][column]}. All other cells agree with the paper's."
        for row, column in marked
    ]
    if np.isnan(table).any():
        notes.append("n/a: undefined in every case of the fold (0/0); the average leaves it out.")
    return Sheet(
        "Table 1: median over the cases of each fold, lungs as mean of left and right, AVG as mean of the folds",
        ("fold", *(f"{region} {score}" for region, score in COLUMNS)),
        rows,
        tuple(notes),
    )


def overall_scores(cases: Sequence[CaseScores], *, seed: int = 0) -> list[Overall]:
    """Return mean and median over all cases for every score there is, with percentile bootstrap intervals.

    The lungs of a case are the mean of its left and right lung.
    """
    overall = []
    for score in (score for score in SCORES if score in cases[0].values):
        for region in REGIONS:
            values = {case.case: region_score(case, region=region, score=score) for case in cases}
            defined = [value for value in values.values() if not math.isnan(value)]
            overall.append(
                Overall(
                    region,
                    score,
                    len(defined),
                    tuple(name for name, value in values.items() if math.isnan(value)),
                    *(_estimate(defined, statistic=name, seed=seed) for name in ("mean", "median")),
                )
            )
    return overall


def overall_sheet(overall: Sequence[Overall], *, cases: Sequence[CaseScores]) -> Sheet:
    """Return the scores over all cases as they are printed, a row per score."""
    rows = []
    for score in dict.fromkeys(line.score for line in overall):
        lines = [line for line in overall if line.score == score]
        rows.append((score, *(_with_interval(e) for line in lines for e in (line.mean, line.median))))
    notes = [
        f"{line.region} {line.score}: undefined (0/0) in {len(line.undefined)} of {len(cases)} cases, left out: "
        + ", ".join(line.undefined)
        for line in overall
        if line.undefined
    ]
    notes += [note for region in REGIONS if (note := _lowest(cases, region=region))]
    notes.append("Lungs: the mean of the left and the right lung of a case, without their infection.")
    if any(line.score == SURFACE_SCORE for line in overall):
        tolerances = ", ".join(f"{SURFACE_TOLERANCE_MM[names[0]]:g} mm {region}" for region, names in REGIONS.items())
        notes.append(f"{SURFACE_SCORE}: normalised surface Dice, within {tolerances}.")
    return Sheet(
        f"All {len(cases)} cases: mean and median, with 95 % bootstrap intervals over cases",
        ("score", *(f"{region} {statistic}" for region in REGIONS for statistic in ("mean", "median"))),
        tuple(rows),
        tuple(notes),
    )


def table_csv(table: np.ndarray) -> str:
    """Return Table 1 as CSV, unrounded; undefined is empty."""
    names = [*(str(number) for number in range(1, len(table))), "AVG"]
    header = ["fold", *(f"{region}_{score}" for region, score in COLUMNS)]
    return _csv([header, *([name, *map(_plain, row)] for name, row in zip(names, table, strict=True))])


def overall_csv(overall: Sequence[Overall]) -> str:
    """Return the scores over all cases as CSV, unrounded; undefined is empty."""
    header = ["score", "region", "defined", "undefined"]
    header += [f"{statistic}{end}" for statistic in ("mean", "median") for end in ("", "_low", "_high")]
    rows = [
        [line.score, line.region, str(line.defined), str(len(line.undefined))]
        + [_plain(value) for e in (line.mean, line.median) for value in (e.value, e.low, e.high)]
        for line in overall
    ]
    return _csv([header, *rows])


def region_score(case: CaseScores, *, region: str, score: str) -> float:
    """Return a score of a case; of the lungs, the mean of left and right, or the one of them that is defined."""
    return mean([case.values[score][name] for name in REGIONS[region]])


def _median_of_fold(cases: Sequence[CaseScores], region: str, score: str) -> float:
    return mean([_median([case.values[score][name] for case in cases]) for name in REGIONS[region]])


def _median(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.median(defined)) if defined else math.nan


def _estimate(values: Sequence[float], *, statistic: str, seed: int) -> Estimate:
    from scipy import stats

    function: Any = {"mean": np.mean, "median": np.median}[statistic]
    value = float(function(values)) if values else math.nan
    if len(values) < 2:
        return Estimate(value, math.nan, math.nan)
    # SciPy's default, BCa, divides by zero if most resamples have the same median, as happens with few cases.
    interval = stats.bootstrap(
        (np.asarray(values),),
        function,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def _lowest(cases: Sequence[CaseScores], *, region: str) -> str:
    values = {case.case: region_score(case, region=region, score="DSC") for case in cases}
    defined = {name: value for name, value in values.items() if not math.isnan(value)}
    name = min(defined, key=lambda case: defined[case], default=None)
    return f"Lowest {region} DSC: {_number(defined[name])}, {name}." if name is not None else ""


def _with_interval(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{_number(estimate.value)} (no interval)"
    return f"{_number(estimate.value)} ({_number(estimate.low)} to {_number(estimate.high)})"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _csv(rows: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
