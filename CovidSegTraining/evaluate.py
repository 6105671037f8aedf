"""From predictions, or from per-case scores, to the paper's tables and its figures 5 and 6."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry

from .experiment.case_scores import CaseScores, score_case, write_scores
from .experiment.paper_table import (
    Overall,
    Sheet,
    fold_table,
    overall_csv,
    overall_scores,
    overall_sheet,
    region_score,
    table_csv,
    table_sheet,
)
from .splits import Fold, SharedPatient, are_original, find_cases, shared_patients
from .whole_files import write_whole

if TYPE_CHECKING:
    from .experiment.figure_pictures import PictureRow

LabelsAre = Literal["reference", "radiologists", "paper-model"]
LABELS_ARE: dict[LabelsAre, str] = {
    "reference": "Scores are against the reference labels given. Where those are a network's predictions, they tell "
    "agreement with that network, not accuracy.",
    "radiologists": "Scores are against radiologists' labels.",
    "paper-model": "The labels are predictions of the paper's model: scores tell agreement with it, not accuracy.",
}
#: Figure 6 shows the best, the worst and two cases between.
PICTURED = 4


@dataclass(frozen=True)
class Evaluation:
    """Everything that follows from the scores.

    Attributes:
        cases: The scores of each case.
        labels_are: What the cases were scored against.
        table: Table 1 (see `fold_table`); None without folds.
        overall: Mean and median over all cases.
        notes: What a reader of the tables has to know.
    """

    cases: tuple[CaseScores, ...]
    labels_are: LabelsAre
    table: np.ndarray | None
    overall: tuple[Overall, ...]
    notes: tuple[str, ...]

    @property
    def sheets(self) -> list[Sheet]:
        """The tables as they are printed."""
        first = [] if self.table is None else [table_sheet(self.table)]
        return [*first, overall_sheet(self.overall, cases=self.cases)]

    def to_text(self) -> str:
        """Return all tables and notes as plain text."""
        return "\n".join([*(sheet.to_text() for sheet in self.sheets), *self.notes]) + "\n"

    def to_markdown(self) -> str:
        """Return all tables and notes in Markdown."""
        return "\n".join([*(sheet.to_markdown() for sheet in self.sheets), "\n\n".join(self.notes)]) + "\n"


def evaluate_scores(
    cases: Sequence[CaseScores],
    *,
    folds: Sequence[Fold] | None = None,
    labels_are: LabelsAre = "reference",
    patients: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Return the tables that follow from the scores; this needs neither images nor torch.

    Args:
        cases: Scores of each case, predicted by the network that had not seen it.
        folds: The folds of the cross-validation; None leaves Table 1 out.
        labels_are: What the cases were scored against.
        patients: The patient of each case whose name does not tell.
        seed: Seed of the bootstrap.

    Raises:
        InputError: Scores and folds do not belong together.
    """
    notes = [LABELS_ARE[labels_are]]
    if folds is not None and (shared := shared_patients(folds, patients=patients)):
        notes.append(_shared_note(shared, whose="the original folds" if are_original(folds) else "these folds"))
    table = None if folds is None else fold_table(cases, folds=folds)
    return Evaluation(tuple(cases), labels_are, table, tuple(overall_scores(cases, seed=seed)), tuple(notes))


def _shared_note(shared: Sequence[SharedPatient], *, whose: str) -> str:
    """Return a line for the reader, and one for each fold and patient."""
    count = len({one.patient for one in shared})
    stand = "a patient stands" if count == 1 else f"{count} patients stand"
    lines = (f"  - {one}" for one in shared)  # a list in Markdown, too
    return "\n".join([f"In {whose} {stand} on both sides, which can flatter the scores:", *lines])


def find_predictions(predictions_dir: Path, *, data_dir: Path) -> dict[str, Path]:
    """Return the prediction of each case that has one: `<case>.nii.gz`, or `<case>/labelmap.nii.gz`.

    Hidden files are none: what a killed `predict` had begun to write is one.

    Raises:
        InputError: There is none, one has no case, or a case has two.
    """
    cases = find_cases(data_dir)
    found: dict[str, Path] = {}
    files = [(path.name.removesuffix(".nii.gz"), path) for path in sorted(predictions_dir.glob("*.nii.gz"))]
    folders = [(path.parent.name, path) for path in sorted(predictions_dir.glob("*/labelmap.nii.gz"))]
    for case, path in files + folders:
        if case.startswith("."):
            continue
        if case not in cases:
            raise InputError(f"{path}: no case '{case}' in {data_dir}; take the file away, or give the data it is of")
        if case in found:
            raise InputError(f"case '{case}' has two predictions, {found[case]} and {path}; keep one")
        found[case] = path
    if not found:
        raise InputError(f"{predictions_dir}: no predictions; expected <case>.nii.gz or <case>/labelmap.nii.gz")
    return dict(sorted(found.items()))


def score_prediction(case: str, *, prediction: Path, case_dir: Path) -> CaseScores:
    """Return the scores of a prediction against the case's `segmentation.nii.gz`, where `valid.nii.gz` allows.

    Raises:
        InputError: A file is missing, damaged, holds other labels, or lies on another grid.
    """
    truth_kji, found_kji, counted_kji, geometry = _read_pair(prediction, case_dir=case_dir)
    return score_case(
        case,
        truth_kji=truth_kji,
        found_kji=found_kji,
        spacing_kji_mm=geometry.spacing_ijk_mm[::-1],
        counted_kji=counted_kji,
    )


def score_predictions(
    predictions: dict[str, Path], *, data_dir: Path, tell: Callable[[str], object]
) -> list[CaseScores]:
    """Return the scores of all predictions; `tell` is called with a line per case."""
    cases = []
    for case, path in predictions.items():
        cases.append(score_prediction(case, prediction=path, case_dir=data_dir / case))
        lungs, infection = (region_score(cases[-1], region=region, score="DSC") for region in ("lungs", "infection"))
        tell(f"{case}: DSC lungs {lungs:.3f}, infection {infection:.3f}")
    return cases


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write scores, tables and figure 5 into a folder; each file whole or not at all."""
    from .figures import draw_score_boxes, save_figure

    write_scores(folder / "scores.csv", evaluation.cases)
    write_whole(folder / "tables.txt", evaluation.to_text().encode())
    write_whole(folder / "tables.md", evaluation.to_markdown().encode())
    if evaluation.table is not None:
        write_whole(folder / "table1.csv", table_csv(evaluation.table).encode())
    write_whole(folder / "all_cases.csv", overall_csv(evaluation.overall).encode())
    save_figure(folder / "figure5_scores.png", draw_score_boxes(evaluation.cases))


def write_pictures(folder: Path, evaluation: Evaluation, *, predictions: dict[str, Path], data_dir: Path) -> None:
    """Write figure 6 into a folder."""
    from .experiment.figure_pictures import draw_pictures
    from .figures import save_figure

    shown = pictured_cases(evaluation.cases)
    rows = [_picture(case, prediction=predictions[case.case], case_dir=data_dir / case.case) for case in shown]
    heading = "prediction of the paper's model" if evaluation.labels_are == "paper-model" else "reference"
    save_figure(folder / "figure6_pictures.png", draw_pictures(rows, truth_heading=heading))


def pictured_cases(cases: Sequence[CaseScores]) -> list[CaseScores]:
    """Return a few cases from the best to the worst Dice of the infection, evenly over their ranks."""

    def dice(case: CaseScores) -> float:
        return region_score(case, region="infection", score="DSC")

    ranked = sorted((case for case in cases if not math.isnan(dice(case))), key=dice, reverse=True) or list(cases)
    ranks = np.linspace(0, len(ranked) - 1, min(PICTURED, len(ranked))).round().astype(int)
    return [ranked[rank] for rank in ranks]


def _picture(case: CaseScores, *, prediction: Path, case_dir: Path) -> PictureRow:
    from CovidSegLib.intensity import grey_to_hu, is_grey
    from CovidSegLib.volume import read_ct

    from .experiment.figure_pictures import picture_row

    truth_kji, found_kji, counted_kji, geometry = _read_pair(prediction, case_dir=case_dir)
    ct = read_ct(case_dir / "imaging.nii.gz")
    if not ct.geometry.is_close_to(geometry):
        raise InputError(f"{case_dir}: imaging and segmentation lie on different grids. {_REMEDY}")
    if counted_kji is not None:
        truth_kji, found_kji = truth_kji * counted_kji, found_kji * counted_kji
    lungs, infection = (region_score(case, region=region, score="DSC") for region in ("lungs", "infection"))
    return picture_row(
        grey_to_hu(ct.hu_kji) if is_grey(ct.hu_kji) else ct.hu_kji,
        title=f"{case.case}\nDSC infection {infection:.3f}\nDSC lungs {lungs:.3f}",
        truth_kji=truth_kji,
        found_kji=found_kji,
        geometry=geometry,
    )


_REMEDY = "Resample to the CT's grid, or take the case out."


def _read_pair(prediction: Path, *, case_dir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Geometry]:
    """Return truth, prediction, the voxels that count (None: all), and the grid of all."""
    from CovidSegLib.results.segmentation_reader import read_segmentation

    from .label_files import read_known

    truth = read_segmentation(case_dir / "segmentation.nii.gz")
    found = read_segmentation(prediction)
    if not found.geometry.is_close_to(truth.geometry):
        raise InputError(
            f"{prediction}: its grid {found.geometry.size_ijk} at {_rounded(found.geometry)} mm differs from that of "
            f"{case_dir / 'segmentation.nii.gz'}, {truth.geometry.size_ijk} at {_rounded(truth.geometry)} mm, in "
            f"size, spacing, position or direction. {_REMEDY}"
        )
    return truth.to_labelmap(), found.to_labelmap(), read_known(case_dir, geometry=truth.geometry), truth.geometry


def _rounded(geometry: Geometry) -> tuple[float, ...]:
    return tuple(round(spacing, 4) for spacing in geometry.spacing_ijk_mm)
