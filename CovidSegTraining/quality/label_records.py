"""How well the labels, which a network made, agree with radiologists' masks, as far as that is on record.

The labels of a case are predictions of the paper's network. Their sensitivity and precision against the radiologists'
masks are among the paper's results (section "Evaluation"): they tell how much infection the labels miss and how much
of what they call infection is none, but not where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from CovidSegLib.errors import InputError

from ..data import LABELLED_FOLDER
from ..experiment.case_scores import read_scores

#: The paper's records, in a folder of data.
PAPERS_RECORDS = Path(LABELLED_FOLDER, "paper", "cv_results.detailed.csv")


@dataclass(frozen=True)
class LabelRecord:
    """Sensitivity and precision (0 to 1) of a case's infection labels against radiologists' masks."""

    sensitivity: float
    precision: float

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
