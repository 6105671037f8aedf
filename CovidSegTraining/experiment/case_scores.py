"""Scores per case and class at the CT's own resolution, and the paper's CSV format for them.

Sources: paper, section "Evaluation"; the surface Dice (NSD) is added here.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from CovidSegLib.errors import InputError
from CovidSegLib.labels import Label

from ..scores import INFECTION_TOLERANCE_MM, LUNG_TOLERANCE_MM, Counts, surface_dice
from ..whole_files import write_whole

#: Columns of the CSV file.
CLASSES = {
    "background": Label.BACKGROUND,
    "lung_L": Label.LEFT_LUNG,
    "lung_R": Label.RIGHT_LUNG,
    "infection": Label.INFECTION,
}
#: The paper's scores, as properties of `Counts`.
COUNTED_SCORES = {
    "DSC": "dice",
    "IoU": "iou",
    "Sens": "sensitivity",
    "Spec": "specificity",
    "Prec": "precision",
    "Acc": "accuracy",
}
#: The normalised surface Dice; the background has no surface of its own.
SURFACE_SCORE = "NSD"
SURFACE_TOLERANCE_MM = {
    "lung_L": LUNG_TOLERANCE_MM,
    "lung_R": LUNG_TOLERANCE_MM,
    "infection": INFECTION_TOLERANCE_MM,
}

SCORES = (*COUNTED_SCORES, SURFACE_SCORE)
_HEADER = ["index", "score", *CLASSES]


@dataclass(frozen=True)
class CaseScores:
    """The scores of a case.

    Attributes:
        case: Its name.
        values: By score, then by class; NaN where undefined.
    """

    case: str
    values: Mapping[str, Mapping[str, float]]


def score_case(
    case: str,
    *,
    truth_kji: np.ndarray,
    found_kji: np.ndarray,
    spacing_kji_mm: tuple[float, float, float],
    counted_kji: np.ndarray | None = None,
) -> CaseScores:
    """Return all scores of an exclusive labelmap against another one on the same grid.

    Args:
        case: Name of the case.
        truth_kji: (k, j, i) integers, values as in `Label`.
        found_kji: (k, j, i) integers, values as in `Label`.
        spacing_kji_mm: Voxel spacing.
        counted_kji: (k, j, i) bool, voxels whose truth is known; None: all.

    Raises:
        ValueError: The shapes differ.
    """
    values: dict[str, dict[str, float]] = {score: {} for score in SCORES}
    for name, label in CLASSES.items():
        truth, found = truth_kji == label, found_kji == label
        counts = Counts.of(truth, found, counted=counted_kji)
        for score, attribute in COUNTED_SCORES.items():
            values[score][name] = getattr(counts, attribute)
        values[SURFACE_SCORE][name] = (
            surface_dice(
                truth,
                found,
                spacing_kji_mm=spacing_kji_mm,
                tolerance_mm=SURFACE_TOLERANCE_MM[name],
                counted_kji=counted_kji,
            )
            if name in SURFACE_TOLERANCE_MM
            else math.nan
        )
    return CaseScores(case, values)


def write_scores(path: Path, cases: Sequence[CaseScores]) -> None:
    """Write scores in the paper's format: a row per case and score, a column per class; undefined is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_HEADER)
    for case in cases:
        for score, row in case.values.items():
            writer.writerow([case.case, score, *("" if math.isnan(row[name]) else repr(row[name]) for name in CLASSES)])
    write_whole(path, stream.getvalue().encode())


def read_scores(path: Path) -> list[CaseScores]:
    """Return the scores of a file in the paper's format, in its order of cases.

    Raises:
        InputError: The file is missing or no such table; a score is unknown, named twice, missing for a case,
            or not between 0 and 1. The text names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no CSV file ({error})") from error
    if not rows or rows[0] != _HEADER:
        raise InputError(f"{path}: the first line must be '{','.join(_HEADER)}'")
    cases: dict[str, dict[str, dict[str, float]]] = {}
    for number, row in enumerate(rows[1:], start=2):
        try:
            if row:
                _take_row(cases, row)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    if not cases:
        raise InputError(f"{path}: no scores below the header")
    _check_complete(cases, path=path)
    return [CaseScores(case, values) for case, values in cases.items()]


def _take_row(cases: dict[str, dict[str, dict[str, float]]], row: list[str]) -> None:
    if len(row) != len(_HEADER):
        raise ValueError(f"{len(row)} values instead of {len(_HEADER)}")
    case, score, *texts = row
    if score not in SCORES:
        raise ValueError(f"unknown score '{score}'; known are {', '.join(SCORES)}")
    values = cases.setdefault(case, {})
    if score in values:
        raise ValueError(f"{score} of case '{case}' for the second time")
    values[score] = {name: _share(text) for name, text in zip(CLASSES, texts, strict=True)}


def _share(text: str) -> float:
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        raise ValueError(f"'{text}' is no number") from None
    if not math.isnan(value) and not 0.0 <= value <= 1.0:
        raise ValueError(f"{text} is not between 0 and 1")
    return value


def _check_complete(cases: Mapping[str, Mapping[str, object]], *, path: Path) -> None:
    scores: Iterable[str] = dict.fromkeys([*COUNTED_SCORES, *(score for values in cases.values() for score in values)])
    for case, values in cases.items():
        if missing := [score for score in scores if score not in values]:
            raise InputError(f"{path}: case '{case}' has no {missing[0]}; every case needs the same scores")
