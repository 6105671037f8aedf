"""The records of the inference benchmark as Markdown."""

from __future__ import annotations

import re
from typing import Any

STAGES = ("read", "preprocess", "network", "back", "quantify", "write")
REGIONS = ("lungs", "left", "right", "infection")
#: The project's aims for accurate and fast, on a CPU with two cores.
AIMS = {
    "network ratio": "6 / 15",
    "lungs": "0.99 / 0.99",
    "infection": "0.97 / 0.95",
}

Record = dict[str, Any]


def tables(document: dict[str, Any]) -> str:
    """Return the whole benchmark as Markdown: conditions, then a table per network."""
    lines = ["# Speed and memory of inference", "", *_conditions(document), ""]
    for section in document["sections"]:
        lines += [f"## {section['title']}", "", *[f"{note}\n" for note in section["notes"]], *_table(section), ""]
    lines += ["## What was compared", "", *_methods()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _conditions(document: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    lines = [
        f"- command: `{document['command']}`",
        f"- date: {document['date']}",
        f"- machine: {document['machine']}",
        f"- CT: {document['ct']}",
        f"- versions: {versions}",
        f"- times: medians of {document['runs']} run(s), in turn",
    ]
    return lines + [f"- **{warning}**" for warning in document["warnings"]]


def _table(section: dict[str, Any]) -> list[str]:
    records: dict[str, Record] = section["records"]
    base = records.get("reference")
    rows = [["seconds", *records, "aim (accurate / fast)"]]
    rows.append(["---"] * len(rows[0]))
    for stage in STAGES:
        if any(stage in record["stages_s"] for record in records.values()):
            rows.append([stage, *(_seconds(record["stages_s"].get(stage)) for record in records.values()), ""])
    rows.append(["**total**", *(_seconds(_total(record)) for record in records.values()), ""])
    if base is not None:
        network = [_ratio(base["stages_s"]["network"], r["stages_s"]["network"]) for r in records.values()]
        rows.append(["network, times faster", *network, AIMS["network ratio"]])
        rows.append(["least to most of the runs", *(_extremes(base, r) for r in records.values()), ""])
        rows.append(["total, times faster", *(_ratio(_total(base), _total(r)) for r in records.values()), ""])
    if all(record["job"]["repeats"] == 1 for record in records.values()):
        process = [record["process_s"] for record in records.values()]
        rows.append(["process, start to end", *map(_seconds, process), ""])
    rows.append(["network computed in", *(record["precision"] for record in records.values()), ""])
    rows.append(["patches", *(str(record["patches"]) for record in records.values()), ""])
    rows.append(["peak resident MB", *(f"{record['peak_memory_mb']:.0f}" for record in records.values()), ""])
    if any("dice" in record for record in records.values()):
        for region in REGIONS:
            values = [_dice(record.get("dice", {}).get(region)) for record in records.values()]
            rows.append([f"Dice {region}", *values, AIMS.get(region, "")])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _methods() -> list[str]:
    return [
        "Each run is a process of its own; peak memory is the highest resident set of any of them.",
        "Loading the weights and importing libraries is counted only in the time of the whole process.",
        "",
        "- reference: the same preprocessing on the whole volume, MONAI's `sliding_window_inference` with patches of",
        "  160 x 160 x 80 (i, j, k), overlap 0.5, `sw_batch_size` 1, mode constant, float32, contiguous, softmax",
        "  averaged, argmax; labels back onto the CT's grid by linear interpolation of each label; of what follows the",
        "  network, only the lungs' border is put where the CT shows it; `labelmap.nii.gz` and",
        "  `segmentation.seg.nrrd` written.",
        "- accurate, fast: `pipeline.segment`; all files of a case written, preview and report among them.",
        "- Dice: against the reference's labelmap; lungs are all labels above 0; left and right without infection.",
    ]


def _total(record: Record) -> float:
    return float(sum(record["stages_s"].values()))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ratio(base: float, value: float) -> str:
    return f"{base / value:.1f}"


def _extremes(base: Record, record: Record) -> str:
    """Return the least and the most times that the network was faster, turn by turn."""
    turns = zip(base["stages_of_runs_s"], record["stages_of_runs_s"], strict=True)
    ratios = [reference["network"] / found["network"] for reference, found in turns]
    return f"{min(ratios):.1f} to {max(ratios):.1f}"


def _dice(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
