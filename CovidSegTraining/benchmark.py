"""Measure a bundle, always in the same way: the product's own `read_ct` and `segment` on every measured case.

Measured are the agreement with the labels of the kept-out cases, the lungs against lung masks, whole chests, two
reconstruction kernels of one scan, left and right, and (on request) robustness. `quality.benchmark_report` writes
the figures down, `quality.aims` says what they should reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from CovidSegLib.bundle import Bundle
from CovidSegLib.errors import CovidSegError, InputError
from CovidSegLib.pipeline import SegmentationResult, segment
from CovidSegLib.volume import CTVolume, case_name, read_ct

from .data import HELD_OUT, LABELLED_FOLDER
from .label_files import read_known, read_labels, read_segmentation
from .quality.variants import labels_on, robustness_variants, storage_variants
from .scores import (
    INFECTION_TOLERANCE_MM,
    LUNG_TOLERANCE_MM,
    REGIONS,
    Counts,
    check_sides,
    other_side_share,
    poi_percent,
    region_mask,
    surface_dice,
)

LUNGS_FOLDER, CHESTS_FOLDER = "lungs", "ct"
#: One scan, reconstructed with two kernels.
KERNEL_PAIR = ("tumour_5mm_soft", "tumour_5mm_sharp")
#: A whole chest with marked disease, and a case whose axes are stored flipped: these two are also run stored otherwise.
FLIP_CASES = ("ricord_covid", "coronacases_003")
SURFACE_TOLERANCE_MM = {**dict.fromkeys(REGIONS, LUNG_TOLERANCE_MM), "infection": INFECTION_TOLERANCE_MM}
#: Infection of the phantoms. Their seeds are 1, 2, ...; none of these was trained on.
PHANTOM_INFECTION_PERCENT = 20.0

Group = Literal["kept-out", "lungs", "chest"]


@dataclass(frozen=True)
class MeasuredCase:
    """A case of the benchmark and the group that says how it is scored."""

    group: Group
    name: str
    path: Path


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to run.

    Attributes:
        mode: As for `segment`.
        device: As for `segment`.
        only: Names of the cases to measure; empty: all.
        robustness: Whether every whole chest is run through all `robustness_variants`.
        all_flips: Whether `storage_variants` are run for all cases instead of two.
        phantoms: Number of synthetic patients with exact labels to measure as well.
    """

    mode: str = "accurate"
    device: str = "auto"
    only: tuple[str, ...] = ()
    robustness: bool = False
    all_flips: bool = False
    phantoms: int = 0


def run_benchmark(
    data_dir: Path, *, bundle: Bundle, options: BenchmarkOptions, tell: Callable[[str], object]
) -> dict[str, Any]:
    """Return all figures as plain values: `cases`, `variants` and `kernels`.

    Args:
        data_dir: Holds `muller20`, `lungs` and `ct`, or some of them.
        bundle: The model.
        options: What to run.
        tell: Called with a line per run.

    Raises:
        InputError: No case to measure is found.
    """
    cases = find_cases(data_dir)
    if options.only:
        if unknown := sorted(set(options.only) - {case.name for case in cases}):
            raise InputError(
                f"no case '{unknown[0]}' to measure in {data_dir}; there are: {', '.join(c.name for c in cases)}"
            )
        cases = [case for case in cases if case.name in options.only]
    if not cases:
        raise InputError(f"{data_dir}: no case to measure in {LABELLED_FOLDER}, {LUNGS_FOLDER} or {CHESTS_FOLDER}")
    flipped = _flip_cases(cases, options=options)
    rows, variants = [], []
    results: dict[str, SegmentationResult] = {}
    for case in cases:
        row: dict[str, Any] = {"group": case.group, "name": case.name, "error": None}
        rows.append(row)
        try:
            result = _segment(read_ct(case.path), bundle=bundle, options=options)
            row.update(measure(result), **_scores(case, result))
        except CovidSegError as error:
            row["error"] = str(error)
            tell(f"{case.name}: FAILED: {error}")
            continue
        tell(f"{case.name}: POI {_number(row['poi_percent'])} %, {row['seconds']:.1f} s")
        if case.name in KERNEL_PAIR:
            results[case.name] = result
        variants += _variant_rows(case, result, bundle=bundle, options=options, flips=case.name in flipped, tell=tell)
    rows += _phantom_rows(bundle=bundle, options=options, tell=tell)
    return {"cases": rows, "variants": variants, "kernels": compare_kernels(results)}


def find_cases(data_dir: Path) -> list[MeasuredCase]:
    """Return every case that is measured: the kept-out, those with a lung mask, and all whole chests."""
    kept_out = [
        MeasuredCase("kept-out", name, data_dir / LABELLED_FOLDER / name)
        for name in sorted(HELD_OUT)
        if (data_dir / LABELLED_FOLDER / name).is_dir()
    ]
    lungs = [MeasuredCase("lungs", path.name, path) for path in sorted((data_dir / LUNGS_FOLDER).glob("imlab_*"))]
    chests = [
        MeasuredCase("chest", case_name(path), path)
        for path in sorted((data_dir / CHESTS_FOLDER).glob("*"))
        if not path.name.startswith(".")
    ]
    return kept_out + lungs + chests


def measure(result: SegmentationResult) -> dict[str, Any]:
    """Return what is recorded of every run: quantities, left and right, seconds."""
    report = result.report()
    sides = check_sides(result.labelmap, geometry=result.geometry)
    return {
        "poi_percent": report["poi_percent"],
        "lung_ml": report["regions"]["lungs"]["volume_ml"],
        "infection_ml": report["regions"]["lungs"]["infection_ml"],
        "sides_mistaken": sides.mistaken,
        "stray_share": sides.stray_share,
        "seconds": result.runtime["seconds"],
        "network_seconds": result.runtime["stages"]["network"],
        "device": result.runtime["device_name"],
        "warnings": list(result.warnings),
    }


def compare(before: SegmentationResult, after: SegmentationResult) -> dict[str, Any]:
    """Return how a variant's result differs from that of the untouched CT, at the voxels of the variant's grid."""
    expected, covered = labels_on(before.labelmap, geometry=before.geometry, target=after.geometry)
    lung = covered & ((expected > 0) | (after.labelmap > 0))
    poi = [r.quantities.poi_percent for r in (before, after)]
    return {
        "poi_change": None if poi[0] is None or poi[1] is None else poi[1] - poi[0],
        "dice": {
            region: Counts.of(region_mask(expected, region), region_mask(after.labelmap, region), counted=covered).dice
            for region in REGIONS
        },
        "label_agreement": float((expected == after.labelmap)[lung].mean()) if lung.any() else math.nan,
        "other_side_share": other_side_share(expected, after.labelmap, counted=covered),
    }


def compare_kernels(results: dict[str, SegmentationResult]) -> dict[str, Any] | None:
    """Return how far the two kernels of one scan agree; None unless both were run."""
    if set(results) != set(KERNEL_PAIR):
        return None
    soft, sharp = (results[name] for name in KERNEL_PAIR)
    return {"soft": soft.quantities.poi_percent, "sharp": sharp.quantities.poi_percent, **compare(soft, sharp)}


def score_labels(
    truth_kji: np.ndarray,
    found_kji: np.ndarray,
    *,
    regions: tuple[str, ...],
    spacing_kji_mm: tuple[float, float, float],
    counted_kji: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Return Dice, sensitivity, specificity and surface Dice per region of two labelmaps."""
    scores = {}
    for region in regions:
        truth, found = region_mask(truth_kji, region), region_mask(found_kji, region)
        counts = Counts.of(truth, found, counted=counted_kji)
        scores[region] = {
            "dice": counts.dice,
            "sensitivity": counts.sensitivity,
            "specificity": counts.specificity,
            "surface_dice": surface_dice(
                truth,
                found,
                spacing_kji_mm=spacing_kji_mm,
                tolerance_mm=SURFACE_TOLERANCE_MM[region],
                counted_kji=counted_kji,
            ),
        }
    return scores


def _scores(case: MeasuredCase, result: SegmentationResult) -> dict[str, Any]:
    """Return the scores of a case against its labels, if it has any."""
    spacing = result.geometry.spacing_ijk_mm[::-1]
    if case.group == "kept-out":
        truth = read_segmentation(case.path / "segmentation.nii.gz", geometry=result.geometry)
        valid = read_known(case.path, geometry=result.geometry)
        scores = score_labels(truth, result.labelmap, regions=tuple(REGIONS), spacing_kji_mm=spacing, counted_kji=valid)
        poi_labels, poi_found = poi_percent(truth, counted=valid), poi_percent(result.labelmap, counted=valid)
        return {"scores": scores, "poi_labels": poi_labels, "poi_error": poi_found - poi_labels}
    if case.group == "lungs":
        mask = (read_labels(case.path / "lungs.nii.gz", geometry=result.geometry) > 0).astype(np.uint8)
        return {"scores": score_labels(mask, result.labelmap, regions=("lungs",), spacing_kji_mm=spacing)}
    return {}


def _phantom_rows(*, bundle: Bundle, options: BenchmarkOptions, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Return the scores on synthetic patients, whose labels are exact."""
    from CovidSegLib.phantom import make_phantom

    rows: list[dict[str, Any]] = [
        {"group": "phantom", "name": f"phantom_{n}", "error": None} for n in range(1, options.phantoms + 1)
    ]
    for seed, row in enumerate(rows, start=1):
        phantom = make_phantom(seed=seed, infection_percent=PHANTOM_INFECTION_PERCENT)
        try:
            result = _segment(phantom.ct, bundle=bundle, options=options)
        except CovidSegError as error:
            row["error"] = str(error)
            tell(f"{row['name']}: FAILED: {error}")
            continue
        found, truth = result.quantities.poi_percent, phantom.truth.poi_percent
        spacing = result.geometry.spacing_ijk_mm[::-1]
        scores = score_labels(phantom.labelmap_kji, result.labelmap, regions=tuple(REGIONS), spacing_kji_mm=spacing)
        off = None if found is None or truth is None else found - truth
        row.update(measure(result), scores=scores, poi_labels=truth, poi_error=off)
        tell(f"{row['name']}: POI {_number(found)} %, true {_number(truth)} %, {row['seconds']:.1f} s")
    return rows


def _variant_rows(
    case: MeasuredCase,
    result: SegmentationResult,
    *,
    bundle: Bundle,
    options: BenchmarkOptions,
    flips: bool,
    tell: Callable[[str], object],
) -> list[dict[str, Any]]:
    # Already in HU, whatever the file holds.
    ct = CTVolume(result.hu_kji, result.geometry, name=result.name, fingerprint=result.fingerprint)
    rows = []
    for kind, name, variant in _variants(
        ct, result, storage=flips, robustness=options.robustness and case.group == "chest"
    ):
        row: dict[str, Any] = {"name": case.name, "kind": kind, "variant": name, "error": None}
        rows.append(row)
        try:
            after = _segment(replace(variant, name=f"{case.name}, {name}"), bundle=bundle, options=options)
            row.update(measure(after), **compare(result, after))
            tell(f"{case.name}, {name}: POI {_number(row['poi_percent'])} %, lungs Dice {row['dice']['lungs']:.4f}")
        except CovidSegError as error:
            row["error"] = str(error)
            tell(f"{case.name}, {name}: FAILED: {error}")
    return rows


def _variants(
    ct: CTVolume, result: SegmentationResult, *, storage: bool, robustness: bool
) -> Iterator[tuple[str, str, CTVolume]]:
    if storage or robustness:
        for name, variant in storage_variants(ct):
            yield "storage", name, variant
    if robustness:
        for name, variant in robustness_variants(ct, labelmap_kji=result.labelmap):
            yield "robustness", name, variant


def _flip_cases(cases: list[MeasuredCase], *, options: BenchmarkOptions) -> set[str]:
    names = [case.name for case in cases]
    if options.all_flips:
        return set(names)
    preferred = [name for name in FLIP_CASES if name in names]
    others = [name for name in names if name not in FLIP_CASES]
    return set((preferred + others)[: len(FLIP_CASES)])


def _segment(ct: CTVolume, *, bundle: Bundle, options: BenchmarkOptions) -> SegmentationResult:
    return segment(ct, mode=options.mode, device=options.device, bundle=bundle)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
