"""Write the figures of a benchmark down: tables in Markdown, and all of it in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from CovidSegLib.bundle import Bundle

from ..report_parts import markdown_table, provenance, write_json
from ..scores import INFECTION_TOLERANCE_MM, LUNG_TOLERANCE_MM, REGIONS, mean
from ..whole_files import write_whole
from .aims import Figures, has_mixed_sides, judge_aims


def complete_report(figures: Figures, *, bundle: Bundle, command: Sequence[str], mode: str) -> Figures:
    """Return the figures together with the aims and with what was measured where, when and by which command."""
    return {**provenance(bundle, command=command, mode=mode), "aims": judge_aims(figures), **figures}


def to_markdown(report: Figures) -> str:
    """Return the report as Markdown."""
    model = report["bundle"]
    parts = [
        f"# Benchmark of {model['name']} {model['version']} ({model['sha256'][:12]}), mode {report['mode']}",
        f"`{report['command']}`, {report['date']}, {report['machine']}. Research software, not for clinical use.",
        "## Aims",
        _aims_table(report["aims"]),
        "## Cases",
        _cases_text(report["cases"]),
        _cases_table(report["cases"]),
    ]
    if report["kernels"] is not None:
        k = report["kernels"]
        parts += [
            "## One scan in two kernels",
            f"Lungs Dice between them {_f(k['dice']['lungs'], 4)}; POI {_f(k['soft'], 2)} % (soft), "
            f"{_f(k['sharp'], 2)} % (sharp), difference {_f(k['poi_change'], 2)} points. "
            "The lesion is a tumour: what is called infection here is false.",
        ]
    if report["variants"]:
        parts += [
            "## The same CT, stored or scanned otherwise",
            "Against the run on the untouched CT, at the voxels of the changed one.",
            _variants_table(report["variants"]),
        ]
    return "\n\n".join(parts) + "\n"


def write_report(report: Figures, folder: Path) -> None:
    """Write `benchmark.json` and `benchmark.md` into a folder; undefined values are null."""
    write_json(folder / "benchmark.json", report)
    write_whole(folder / "benchmark.md", to_markdown(report).encode("utf-8"))


def _aims_table(aims: list[dict[str, Any]]) -> str:
    rows = []
    for aim in aims:
        sign = ">=" if aim["at_least"] else "<="
        bounds = [
            "" if aim[w] is None else f"{sign} {aim[w]:g}{aim['unit']}: {_met(aim[f'{w}_met'])}"
            for w in ("first", "final")
        ]
        value = "not measured" if aim["value"] is None else f"{aim['value']:.4g}{aim['unit']}"
        rows.append([aim["aim"], value, *bounds])
    return markdown_table(["aim", "measured", "first aim", "aim beyond"], rows)


def _met(met: bool | None) -> str:
    return {True: "met", False: "**not met**", None: "not measured"}[met]


def _cases_text(cases: list[dict[str, Any]]) -> str:
    groups = {row["group"] for row in cases}
    texts = {
        "kept-out": "kept-out: not trained on. The labels are the paper's own predictions, so these figures are "
        "agreement with the paper's model, not accuracy; only voxels whose image is known count. POI error is "
        "against the labels, in points, over these voxels.",
        "lungs": "lungs: not trained on; both lungs, infection included, against a lung mask (accuracy, as far as the "
        "masks, which follow a threshold closely, are right).",
        "phantom": "phantom: synthetic patients with exact labels, none of them trained on. POI error in points.",
        "chest": "chest: whole chests without masks; those not named as measured only may have been trained on.",
    }
    return "\n".join(f"- {text}" for group, text in texts.items() if group in groups) + (
        "\n- left and right are the exclusive labels, without infection; lungs is both with their infection. "
        f"Surface Dice: tolerance {LUNG_TOLERANCE_MM:g} mm lungs, {INFECTION_TOLERANCE_MM:g} mm infection."
    )


def _cases_table(cases: list[dict[str, Any]]) -> str:
    header = ["group", "case", *(f"Dice {region}" for region in REGIONS), "sens/spec lungs", "sens/spec infection"]
    header += ["surface Dice lungs", "surface Dice infection", "POI %", "POI error", "lung ml", "infection ml"]
    header += ["left-right", "s"]
    rows = []
    for row in cases:
        if row["error"]:
            rows.append([row["group"], row["name"], f"failed: {row['error']}", *[""] * (len(header) - 3)])
            continue
        scores = row.get("scores", {})
        rows.append(
            [
                row["group"],
                row["name"],
                *(_f(scores.get(region, {}).get("dice"), 3) for region in REGIONS),
                *(_pair(scores.get(region)) for region in ("lungs", "infection")),
                *(_f(scores.get(region, {}).get("surface_dice"), 3) for region in ("lungs", "infection")),
                _f(row["poi_percent"], 2, undefined="n/a"),
                _f(row.get("poi_error"), 2),
                _f(row["lung_ml"], 0),
                _f(row["infection_ml"], 1),
                "mixed up" if row["sides_mistaken"] else "correct",
                _f(row["seconds"], 1),
            ]
        )
    for group in dict.fromkeys(row["group"] for row in cases):
        means = [_mean_dice(cases, group=group, region=region) for region in REGIONS]
        if any(means):
            rows.append([group, "**mean**", *means, *[""] * (len(header) - 2 - len(means))])
    return markdown_table(header, rows)


def _mean_dice(cases: list[dict[str, Any]], *, group: str, region: str) -> str:
    values = [
        row["scores"][region]["dice"] for row in cases if row["group"] == group and region in row.get("scores", {})
    ]
    return _f(mean(values), 3) if values else ""


def _pair(score: dict[str, float] | None) -> str:
    return "" if score is None else f"{_f(score['sensitivity'], 3)}/{_f(score['specificity'], 3)}"


def _variants_table(variants: list[dict[str, Any]]) -> str:
    header = ["case", "variant", "POI %", "POI change", "Dice lungs", "Dice infection"]
    header += ["equal labels", "other side %", "left-right"]
    rows = []
    for row in variants:
        if row["error"]:
            rows.append([row["name"], row["variant"], f"failed: {row['error']}", *[""] * (len(header) - 3)])
            continue
        rows.append(
            [
                row["name"],
                row["variant"],
                _f(row["poi_percent"], 2, undefined="n/a"),
                _f(row["poi_change"], 2, undefined="n/a"),
                _f(row["dice"]["lungs"], 4),
                _f(row["dice"]["infection"], 4),
                _f(row["label_agreement"], 4),
                _f(100.0 * row["other_side_share"], 2),
                "mixed up" if has_mixed_sides(row) else "correct",
            ]
        )
    return markdown_table(header, rows)


def _f(value: float | None, digits: int, *, undefined: str = "") -> str:
    return undefined if value is None else "n/a" if math.isnan(value) else f"{value:.{digits}f}"
