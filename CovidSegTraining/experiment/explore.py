"""Explore a dataset: shape, spacing, range of values and class shares of each case.

Where a case has a `valid.nii.gz`, the voxels outside of it are unknown and do not count.
Source: paper, section on the dataset (its data exploration).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from CovidSegLib.errors import InputError
from CovidSegLib.geometry import Geometry
from CovidSegLib.intensity import is_grey, is_offset
from CovidSegLib.labels import SEGMENTS, Label
from CovidSegLib.readers.inputs import imaging_file_in
from CovidSegLib.volume import read_ct

from ..label_files import read_known, read_labels
from ..report_parts import text_table
from ..whole_files import whole_file


@dataclass(frozen=True)
class CaseFacts:
    """What an exploration finds out about a case.

    Attributes:
        case: Name of its folder.
        size_ijk: Number of voxels along i, j, k.
        spacing_ijk_mm: Voxel spacing.
        orientation: Where i, j and k run to, as letters: L left, R right, P back, A front, S head, I feet.
        values: "HU", "grey" (8-bit) or "offset" (HU + 1024).
        lowest: Lowest of the values that count.
        highest: Highest of them.
        mean: Their mean.
        valid_share: Share of the voxels that count.
        voxels: Number of voxels with each label, indexed by `Label`; None without a segmentation.
        voxel_volume_ml: Volume of one voxel.
        note: A remark for the reader; may be empty.
    """

    case: str
    size_ijk: tuple[int, int, int]
    spacing_ijk_mm: tuple[float, float, float]
    orientation: str
    values: str
    lowest: float
    highest: float
    mean: float
    valid_share: float
    voxels: tuple[int, ...] | None
    voxel_volume_ml: float
    note: str = ""

    def percent(self, label: Label) -> float:
        """Share of a class in the voxels that count, in percent; NaN without a segmentation."""
        return float("nan") if self.voxels is None else 100.0 * self.voxels[label] / max(sum(self.voxels), 1)

    @property
    def lung_ml(self) -> float:
        """Both lungs with their infection; NaN without a segmentation."""
        return float("nan") if self.voxels is None else sum(self.voxels[1:]) * self.voxel_volume_ml

    @property
    def infection_ml(self) -> float:
        """Infection; NaN without a segmentation."""
        return float("nan") if self.voxels is None else self.voxels[Label.INFECTION] * self.voxel_volume_ml


@dataclass(frozen=True)
class Exploration:
    """All cases that could be read, and the errors of those that could not."""

    cases: tuple[CaseFacts, ...]
    errors: tuple[str, ...]


def explore(data_dir: Path, *, tell: Callable[[str], object] = lambda text: None) -> Exploration:
    """Return the facts of every case folder (one with `imaging.*`) directly under a folder.

    Args:
        data_dir: Folder of cases.
        tell: Called with each case's name before it is read.

    Raises:
        InputError: There is no case.
    """
    cases, errors = [], []
    folders = [path for path in sorted(data_dir.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for folder in folders:
        try:
            if imaging_file_in(folder) is None:
                if (folder / "segmentation.nii.gz").exists():
                    errors.append(f"{folder}: no imaging.nii.gz; add it, or take the case out of the folder")
                continue
            tell(folder.name)
            cases.append(explore_case(folder))
        except InputError as error:
            errors.append(str(error))
    if not cases and not errors:
        raise InputError(f"{data_dir}: no cases; expected <case>/imaging.nii.gz and <case>/segmentation.nii.gz")
    return Exploration(tuple(cases), tuple(errors))


def explore_case(folder: Path) -> CaseFacts:
    """Return the facts of one case.

    Raises:
        InputError: A file is damaged, on another grid than the CT, or holds unknown labels.
    """
    ct = read_ct(folder)
    labels, known = folder / "segmentation.nii.gz", read_known(folder, geometry=ct.geometry)
    counted = np.ones(ct.hu_kji.shape, dtype=bool) if known is None else known
    values = ct.hu_kji[counted]
    voxels = _count_labels(labels, geometry=ct.geometry, counted=counted) if labels.exists() else None
    return CaseFacts(
        case=folder.name,
        size_ijk=ct.geometry.size_ijk,
        spacing_ijk_mm=ct.geometry.spacing_ijk_mm,
        orientation=_orientation(ct.geometry),
        values="grey" if is_grey(values) else "offset" if is_offset(values) else "HU",
        lowest=float(values.min()),
        highest=float(values.max()),
        mean=float(values.mean(dtype=np.float64)),
        valid_share=values.size / counted.size,
        voxels=voxels,
        voxel_volume_ml=ct.geometry.voxel_volume_ml,
        note=_note(voxels),
    )


def _count_labels(path: Path, *, geometry: Geometry, counted: np.ndarray) -> tuple[int, ...]:
    labels = read_labels(path, geometry=geometry)[counted]
    counts = np.bincount(labels, minlength=len(Label))
    if counts.size > len(Label):
        raise InputError(f"{path}: label {counts.size - 1} found; known are 0 to {max(Label)}. Correct the labels.")
    return tuple(int(n) for n in counts)


def _orientation(geometry: Geometry) -> str:
    import SimpleITK as sitk

    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction_lps))


def _note(voxels: tuple[int, ...] | None) -> str:
    if voxels is None:
        return "no segmentation.nii.gz"
    empty = [segment.name for segment in SEGMENTS if voxels[segment.label] == 0]
    return f"no {', no '.join(empty)}" if empty else ""


#: Columns of table and file.
COLUMNS = (
    *("case", "size_i", "size_j", "size_k", "spacing_i_mm", "spacing_j_mm", "spacing_k_mm", "orientation"),
    *("values", "lowest", "highest", "mean", "valid_percent"),
    *(f"{label.name.lower()}_percent" for label in Label),
    *("lung_ml", "infection_ml", "note"),
)


def rows(cases: Sequence[CaseFacts]) -> list[dict[str, str]]:
    """Return the cells of each case's row, by column (`COLUMNS`); unknown values are empty."""
    return [
        dict(
            zip(
                COLUMNS,
                (
                    facts.case,
                    *map(str, facts.size_ijk),
                    *(f"{mm:.4g}" for mm in facts.spacing_ijk_mm),
                    facts.orientation,
                    facts.values,
                    *(f"{value:.0f}" for value in (facts.lowest, facts.highest, facts.mean)),
                    f"{100 * facts.valid_share:.1f}",
                    *(_number(facts.percent(label), digits=2) for label in Label),
                    _number(facts.lung_ml, digits=1),
                    _number(facts.infection_ml, digits=1),
                    facts.note,
                ),
                strict=True,
            )
        )
        for facts in cases
    ]


def _number(value: float, *, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def to_table(cases: Sequence[CaseFacts]) -> str:
    """Return the cases as a table for the terminal, and below it a line that sums them up."""
    shares = "background/left/right/infection %"
    header = ("case", "voxels", "spacing mm", "axes", "values", shares, "lung ml", "infection ml")
    lines = []
    for row, facts in zip(rows(cases), cases, strict=True):
        lines.append(
            (
                facts.case,
                "x".join(map(str, facts.size_ijk)),
                "x".join(f"{mm:.2f}" for mm in facts.spacing_ijk_mm),
                facts.orientation,
                f"{facts.values} {row['lowest']}..{row['highest']}",
                "/".join(f"{facts.percent(label):.1f}" for label in Label) if facts.voxels else facts.note,
                row["lung_ml"],
                row["infection_ml"],
            )
        )
    return f"{text_table(header, lines)}\n{_summary(cases)}"


def _summary(cases: Sequence[CaseFacts]) -> str:
    if not cases:
        return "no case could be read"
    sizes = np.median([facts.size_ijk for facts in cases], axis=0)
    spacings_mm = np.median([facts.spacing_ijk_mm for facts in cases], axis=0)
    text = f"{len(cases)} cases; median {'x'.join(f'{n:.0f}' for n in sizes)} voxels of "
    text += "x".join(f"{mm:.2f}" for mm in spacings_mm) + " mm"
    labelled = np.array([facts.voxels for facts in cases if facts.voxels])
    if labelled.size == 0:
        return text + "; none has a segmentation"
    shares = 100.0 * labelled.sum(axis=0) / labelled.sum()
    named = ", ".join(f"{label.name.lower().replace('_', ' ')} {shares[label]:.1f} %" for label in Label)
    return f"{text}; over the voxels of {len(labelled)} with a segmentation (where it is valid): {named}"


def write_exploration(cases: Sequence[CaseFacts], output_dir: Path) -> None:
    """Write `explore.csv` and `explore.png` into a folder, which is made if need be; at least one case."""
    with whole_file(output_dir / "explore.csv") as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(cases))
    _draw(cases, output_dir / "explore.png")


def _draw(cases: Sequence[CaseFacts], path: Path) -> None:
    """Draw class shares (what is not background) and spacing, a line per case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 1.6 + 0.28 * len(cases)), layout="constrained")
    shares, spacing = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = [facts.case for facts in cases]
    left = np.zeros(len(cases))
    for segment in SEGMENTS:
        width = np.nan_to_num([facts.percent(segment.label) for facts in cases])
        shares.barh(names, width, left=left, color=segment.color_rgb, label=segment.name)
        left += width
    shares.set_xlabel("share of the known voxels (%); the rest is background")
    shares.invert_yaxis()
    for axis, marker in enumerate("o+s"):
        along = [facts.spacing_ijk_mm[axis] for facts in cases]
        spacing.plot(along, names, marker, fillstyle="none", label=f"along {'ijk'[axis]}")
    spacing.set_xlim(left=0)
    spacing.set_xlabel("spacing (mm)")
    spacing.grid(axis="x", alpha=0.3)
    for panel in (shares, spacing):
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=120, metadata={"Software": None})
