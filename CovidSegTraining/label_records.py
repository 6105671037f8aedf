"""What is on record about labels that a network made: how well they agree with radiologists' masks.

The labels of a case are predictions of the paper's network, and their sensitivity and precision against the
radiologists are among its results (paper, section "Evaluation"). They say how much infection the labels miss and
how much of theirs is none, though not where; that a later network tells best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from CovidSegLib.errors import InputError

from .case_scores import read_scores
from .label_codes import Code

#: The paper's records, in a folder of data.
PAPERS_RECORDS = Path("muller20", "paper", "cv_results.detailed.csv")
#: Missed infection is taught as infection from this probability on, and left open below it.
TAUGHT_FROM = 0.2
#: Less probable than this, nothing is left open: what the labels miss of large, faint disease has no end.
OPEN_FROM = 0.01
#: Labelled infection that the network sees so surely stays, whatever the labels' precision.
SURE_FROM = 0.8


@dataclass(frozen=True)
class LabelRecord:
    """Sensitivity and precision (0 to 1) of a case's infection labels against radiologists' masks."""

    sensitivity: float
    precision: float

    @property
    def missed_share(self) -> float:
        """Infection that the labels miss, as a share of what they have."""
        return self.precision * (1.0 - self.sensitivity) / self.sensitivity

    @property
    def false_share(self) -> float:
        """The share of the labelled infection that is none."""
        return 1.0 - self.precision

    @property
    def volume_ratio(self) -> float:
        """The radiologists' volume of infection, as a share of the labels'."""
        return self.precision / self.sensitivity


def read_label_records(path: Path) -> dict[str, LabelRecord]:
    """Return the records of all cases of the paper's CSV of scores whose infection has both.

    Raises:
        InputError: The file is missing or is no such CSV.
    """
    records = {}
    for scores in read_scores(path):
        sensitivity, precision = (scores.values[name]["infection"] for name in ("Sens", "Prec"))
        if sensitivity > 0 and not math.isnan(precision):
            records[scores.case] = LabelRecord(sensitivity, precision)
    if not records:
        raise InputError(f"{path}: no case with sensitivity and precision of infection")
    return records


def find_label_records(data_dir: Path) -> dict[str, LabelRecord]:
    """Return the paper's records of a data folder; none if they are not there."""
    path = data_dir / PAPERS_RECORDS
    return read_label_records(path) if path.exists() else {}


def loosen_infection(codes_kji: np.ndarray, *, infection_kji: np.ndarray, record: LabelRecord) -> np.ndarray:
    """Return the codes of a labelled case, as loose about infection as its labels are wrong; a new array.

    As much healthy lung as the labels miss infection, where a network finds infection likeliest, becomes infection
    or "one side or infection"; as much labelled infection as is none, where it is least likely, the latter. Both are
    "at most": what hardly is (`OPEN_FROM`), or surely is infection (`SURE_FROM`), stays as labelled.

    Args:
        codes_kji: (k, j, i) uint8 of `Code`, the labels and what is not known.
        infection_kji: (k, j, i), a network's probability of infection.
        record: Of this case.
    """
    from scipy import ndimage

    labelled = codes_kji == Code.INFECTION
    healthy = (codes_kji == Code.LEFT_LUNG) | (codes_kji == Code.RIGHT_LUNG)
    codes = codes_kji.copy()
    volume = int(labelled.sum())
    if volume == 0 or not healthy.any():
        return codes
    missed = _highest(infection_kji, healthy, round(volume * min(record.missed_share, 1.0))) & (
        infection_kji > OPEN_FROM
    )
    false = _highest(-infection_kji, labelled, round(volume * record.false_share)) & (infection_kji < SURE_FROM)
    nearest = ndimage.distance_transform_edt(~healthy, return_distances=False, return_indices=True)
    is_left = codes_kji[tuple(nearest)] == Code.LEFT_LUNG
    is_open = missed | false
    codes[is_open & is_left] = Code.LEFT_OR_INFECTION
    codes[is_open & ~is_left] = Code.RIGHT_OR_INFECTION
    codes[missed & (infection_kji >= TAUGHT_FROM)] = Code.INFECTION
    return codes


def _highest(values: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """Return a mask of the `count` voxels of `where` with the highest values."""
    candidates = np.flatnonzero(where)
    best = np.argsort(values.ravel()[candidates], kind="stable")[len(candidates) - min(count, len(candidates)) :]
    found = np.zeros(where.size, dtype=bool)
    found[candidates[best]] = True
    return found.reshape(where.shape)
