"""A calibration for people: Markdown, JSON, and the reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from CovidSegLib.bundle import Bundle
from CovidSegLib.uncertainty import BORDER_MM

from ..calibration import TEMPERATURES
from ..figures import save_figure
from ..report_parts import markdown_table, provenance, write_json
from ..whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JSON_FILE, MARKDOWN_FILE, DIAGRAM_FILE = "calibration.json", "calibration.md", "reliability.png"
AGREEMENT = (
    "The labels are predictions of the paper's model: every figure is agreement with them, not truth. The "
    "temperature is fitted on training cases only. As the network has learnt from these, the cases that are only ever "
    "measured say more about a new patient. Voxels: those of the network's grid that the labels call lung or "
    "infection, in slices where they are valid. Research software, not for clinical use."
)
COLORS = {"before": "#c0392b", "after": "#1f77b4"}


def complete_calibration(
    figures: dict[str, Any], *, bundle: Bundle, command: Sequence[str], mode: str
) -> dict[str, Any]:
    """Return the figures together with what was measured where, when and by which command."""
    factor = bundle.postprocessing.infection_factor
    return {**provenance(bundle, command=command, mode=mode), "infection_factor": factor, **figures}


def calibration_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    model, temperature = report["bundle"], report["temperature"]
    fitted = [row["name"] for row in report["cases"] if row["group"] == "training" and not row["error"]]
    rows = [{"name": f"**{group}**", "error": None, **figures} for group, figures in report["groups"].items()]
    rows += [{**row, "name": f"{row['name']} ({row['group']})"} for row in report["cases"]]
    parts = [
        f"# Calibration of {model['name']} {model['version']} ({model['sha256'][:12]}), mode {report['mode']}",
        f"`{report['command']}`, {report['date']}, {report['machine']}.",
        AGREEMENT,
        f"Temperature {temperature:.3f}, fitted on {', '.join(fitted)}. To use it, put "
        f'`"calibration": {{"temperature": {temperature:.3f}}}` into the section `covidseg` of the bundle\'s '
        "metadata; it changes the uncertainty map, never a label." + bound_note(temperature),
        "## Infection probability, before -> after the temperature",
        _probability_table(rows),
        "## Entropy where the labels agree and where they do not, before -> after the temperature",
        "AUROC: how well the entropy tells disagreeing voxels from agreeing ones (0.5: not at all). 'Deep' counts "
        f"only voxels more than {BORDER_MM:g} mm inside the lungs, away from the uncertain rim along their border.",
        _entropy_table(rows),
        *extent_parts(report["cases"]),
        "## Agreement on infection by the factor on its probability",
        "Mean over the cases of each group, inside the labelled lungs: Dice, and the share called infected against the "
        "share labelled so. The bundle's factor is "
        f"{report['infection_factor']:g}; to choose another, look at the training cases alone, and at healthy chests.",
        _decision_table(report["decision"]),
    ]
    return "\n\n".join(parts) + "\n"


def bound_note(temperature: float) -> str:
    """Return what to say of a temperature at an end of the range that is searched; nothing within it."""
    # The search comes no nearer to an end than about its tolerance.
    if not any(abs(math.log(temperature / bound)) < 0.01 for bound in TEMPERATURES):
        return ""
    low, high = TEMPERATURES
    return (
        f" **It is at the end of the range that is searched ({low:g} to {high:g}): the probabilities do not fit the "
        "labels at any temperature, or there are too few labels. Do not use it.**"
    )


def write_calibration(report: dict[str, Any], folder: Path) -> None:
    """Write `calibration.json`, `calibration.md` and `reliability.png` into a folder."""
    write_json(folder / JSON_FILE, report)
    write_whole(folder / MARKDOWN_FILE, calibration_markdown(report).encode("utf-8"))
    save_figure(folder / DIAGRAM_FILE, draw_reliability(report))


def draw_reliability(report: dict[str, Any]) -> Figure:
    """Return the reliability diagrams, a column per group: shares infected above, how many voxels below."""
    from matplotlib.figure import Figure

    groups = report["reliability"]
    figure = Figure(figsize=(3.8 * len(groups), 4.8), layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for column, (group, diagrams) in enumerate(groups.items()):
        _draw_group(axes[0, column], axes[1, column], diagrams=diagrams, figures=report["groups"][group])
        axes[0, column].set_title(f"{group} cases", fontsize=10)
        axes[1, column].set_xlabel("probability of infection given")
    axes[0, 0].set_ylabel("share infected by the labels")
    axes[1, 0].set_ylabel("voxels")
    return figure


def _draw_group(above: Axes, below: Axes, *, diagrams: dict[str, Any], figures: dict[str, Any]) -> None:
    above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    for when, found in diagrams.items():
        used = [n for n, count in enumerate(found["count"]) if count]
        given, infected = ([found[key][n] for n in used] for key in ("probability", "infected"))
        label = f"{when}: ECE {figures[when]['ece']:.3f}"
        above.plot(given, infected, marker="o", markersize=3.5, color=COLORS[when], label=label)
        bins = len(found["count"])
        below.stairs(found["count"], [n / bins for n in range(bins + 1)], color=COLORS[when])
    above.legend(frameon=False, fontsize=8, loc="best")
    below.set_yscale("log")
    for panel in (above, below):
        panel.spines[["top", "right"]].set_visible(False)


def _probability_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        if row["error"]:
            lines.append([row["name"], f"failed: {row['error']}", "", "", "", ""])
            continue
        before, after = row["before"], row["after"]
        pairs = [_pair(before[score], after[score], digits=4) for score in ("ece", "brier", "nll")]
        lines.append([row["name"], str(row["voxels"]), f"{100 * row['infected']:.1f}", *pairs])
    return markdown_table(["case", "voxels", "infected %", "ECE", "Brier", "NLL"], lines)


def _entropy_table(rows: list[dict[str, Any]]) -> str:
    header = ["case", "disagreeing %", "agreeing", "disagreeing", "AUROC", "deep: agreeing", "disagreeing", "AUROC"]
    lines = []
    for row in (row for row in rows if not row["error"]):
        pairs = [
            _pair(row["before"][where][key], row["after"][where][key], digits=3)
            for where in ("entropy", "entropy_deep")
            for key in ("agreeing", "disagreeing", "auroc")
        ]
        lines.append([row["name"], f"{100 * row['disagreement']:.1f}", *pairs])
    return markdown_table(header, lines)


def extent_parts(rows: list[dict[str, Any]]) -> list[str]:
    """Return how much is called infection, against the radiologists; nothing without their records."""
    rows = [row for row in rows if "by_radiologists" in row]
    if not rows:
        return []
    lines: list[list[str]] = []
    errors: dict[str, list[tuple[float, float]]] = {row["group"]: [] for row in rows}
    for row in rows:
        called, labelled, radiologists = (100 * row[key] for key in ("called", "infected", "by_radiologists"))
        off = (called - radiologists, labelled - radiologists)
        errors[row["group"]].append(off)
        shares = [f"{share:.1f}" for share in (called, labelled, radiologists)]
        lines.append([f"{row['name']} ({row['group']})", *shares, *(f"{error:+.1f}" for error in off)])
    for how, average in (("mean", fmean), ("median", median)):
        for group, found in errors.items():
            sizes = [f"{average(map(abs, of_one)):.1f}" for of_one in zip(*found, strict=True)]
            lines.append([f"**{group}**, {how} size", "", "", "", *sizes])
    header = ["case", "called %", "labelled %", "by radiologists %", "error of the bundle", "of the labels"]
    return [
        "## How much is called infection, against the radiologists",
        "Shares of the labelled lungs, errors in points. What the radiologists called infection is an estimate: the "
        "share of the labels times their precision / sensitivity against the radiologists' masks, which are on record "
        "for the whole case (paper, cross-validation), as if both held for the part that is here.",
        markdown_table(header, lines),
    ]


def _decision_table(rows: list[dict[str, Any]]) -> str:
    groups = [key for key in rows[0] if key != "factor"]
    header = ["factor", *(f"{group}: {what}" for group in groups for what in ("Dice", "called / labelled %"))]
    lines = []
    for row in rows:
        cells = [f"{row['factor']:g}"]
        for found in (row[group] for group in groups):
            dice = "n/a" if math.isnan(found["dice"]) else f"{found['dice']:.3f}"
            cells += [dice, f"{100 * found['called']:.1f} / {100 * found['labelled']:.1f}"]
        lines.append(cells)
    return markdown_table(header, lines)


def _pair(*values: float | None, digits: int) -> str:
    """Return a figure before and after the temperature."""
    return " -> ".join("n/a" if value is None else f"{value:.{digits}f}" for value in values)
