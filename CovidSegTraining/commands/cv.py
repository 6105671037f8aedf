"""The command of the whole experiment: `cv`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from CovidSegLib.commands.exit_codes import OK
from CovidSegLib.commands.parser import Parser, UsageError, add_command, count

from .common import (
    add_compute,
    add_labels_are,
    add_patients,
    add_precision,
    count_from_zero,
    file,
    folder,
    output_folder,
    patients_of,
    say,
    use_threads,
    warn,
    warn_unknown_patients,
)

if TYPE_CHECKING:
    from ..splits import Fold


def add_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Register the command."""
    parser = add_command(
        commands, "cv", summary="prepare, fit, predict and evaluate all folds; run again to continue", run=_cv
    )
    parser.add_argument("--config", metavar="YAML", type=Path, help="recipe (default: the paper's)")
    parser.add_argument("--data", metavar="DIR", type=folder, required=True, help="holds <case>/imaging.nii.gz")
    parser.add_argument(
        "-o", "--output", metavar="RUN", type=output_folder, required=True, help="folder of the experiment"
    )
    parser.add_argument(
        "--cache", metavar="DIR", type=output_folder, help="folder for prepared cases (default: RUN/cache)"
    )
    folds = parser.add_mutually_exclusive_group()
    folds.add_argument("--original", action="store_true", help="the paper's own five folds (default)")
    folds.add_argument("--folds", metavar="JSON", type=file, help="folds, as 'split' writes them")
    folds.add_argument("--k", metavar="K", type=count, action="append", help="K new folds; repeat for several runs")
    parser.add_argument("--seed", metavar="S", type=count_from_zero, help="of the new folds of --k (default 0)")
    add_patients(parser, purpose=", where names do not tell")
    parser.add_argument(
        "--steps", action="store_true", help="four runs: neither augmentation nor preprocessing, one, the other, both"
    )
    parser.add_argument(
        "--cluster",
        metavar="auto|ADDRESS|none",
        default="none",
        help="Ray cluster for the folds: auto finds or starts one (default none: one fold after the other)",
    )
    add_precision(parser)
    add_labels_are(parser)
    add_compute(parser)


def _cv(options: argparse.Namespace) -> int:
    from CovidSegLib.device import resolve_device

    from ..experiment.cluster import NONE, choose_cluster
    from ..experiment.config import read_experiment
    from ..experiment.cv import Places, cross_validate, summary_sheet
    from ..experiment.variants import make_variants, stepwise
    from ..whole_files import write_whole

    if options.seed is not None and options.k is None:
        raise UsageError("--seed is for the new folds of --k; weights and crops have training.seed of the recipe")
    recipe = read_experiment(options.config).with_precision(options.precision)
    recipes = stepwise(recipe) if options.steps else {"": recipe}
    patients = patients_of(options)
    variants = make_variants(recipes, folds=_folds(options, patients=patients))
    use_threads(options.threads)
    if options.cluster == NONE:
        resolve_device(options.device)  # before the minutes that preparing takes
    places = Places(options.data, options.output, options.cache or options.output / "cache")
    if options.cluster != NONE:
        # A worker may be in another folder, or on another machine.
        places = Places(places.data_dir.resolve(), places.output.resolve(), places.cache_dir.resolve())
    evaluations = cross_validate(
        variants,
        places=places,
        device=options.device,
        run_jobs=choose_cluster(options.cluster, threads=options.threads, tell=say),
        labels_are=options.labels_are,
        patients=patients,
        tell=say,
    )
    if len(variants) == 1:
        say(evaluations[variants[0].name].to_text())
        say(f"{places.output / 'evaluation'}: scores, tables and figures")
        return OK
    sheet = summary_sheet(evaluations)
    write_whole(options.output / "summary.txt", sheet.to_text().encode())
    write_whole(options.output / "summary.md", sheet.to_markdown().encode())
    say(sheet.to_text())
    return OK


def _folds(options: argparse.Namespace, *, patients: Mapping[str, str] | None) -> dict[str, Sequence[Fold]]:
    """Return the sets of folds that are asked for, by name."""
    from ..splits import find_cases, k_folds, original_folds, read_folds, restrict_folds

    cases = find_cases(options.data)
    warn_unknown_patients(patients, cases=cases)
    if options.folds is not None:
        folds = read_folds(options.folds, patients=patients)
        _warn_left_out(cases, folds=folds)
        return {"": folds}
    if options.k is not None:
        return {f"k_{k}": k_folds(cases, k=k, seed=options.seed or 0, patients=patients) for k in options.k}
    folds, missing = restrict_folds(original_folds(), present=cases)
    if missing:
        warn(f"{len(missing)} of the paper's cases are missing: {', '.join(missing)}")
    _warn_left_out(cases, folds=folds)
    return {"": folds}


def _warn_left_out(cases: Sequence[str], *, folds: Sequence[Fold]) -> None:
    if others := sorted(set(cases) - {case for fold in folds for case in fold.training + fold.validation}):
        warn(f"{len(others)} cases are in none of the folds and left out: {', '.join(others)}")
