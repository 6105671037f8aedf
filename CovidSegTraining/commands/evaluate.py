"""The commands of the paper's evaluation: `split`, `evaluate`, `figures`."""

from __future__ import annotations

import argparse
from pathlib import Path

from CovidSegLib.commands.exit_codes import OK
from CovidSegLib.commands.parser import Parser, UsageError, add_command, count

from .common import (
    add_labels_are,
    add_patients,
    count_from_zero,
    file,
    folder,
    note,
    output_folder,
    patients_of,
    say,
    warn,
    warn_unknown_patients,
)


def add_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Register the commands."""
    _add_split(commands)
    _add_evaluate(commands)
    _add_figures(commands)


def _add_split(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "split", summary="deal the cases to the folds of a cross-validation", run=_split)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DIR", type=folder, help="folder that holds <case>/imaging.nii.gz")
    source.add_argument("--cases", metavar="NAME", nargs="+", help="names of the cases")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--k", metavar="K", type=count, default=5, help="number of folds (default 5)")
    kind.add_argument("--original", action="store_true", help="the paper's own five folds")
    parser.add_argument("--seed", metavar="S", type=count_from_zero, help="of the dealing (default 0)")
    add_patients(parser, purpose=", where names do not tell")
    parser.add_argument("-o", "--output", metavar="JSON", type=Path, required=True, help="file for the folds")


def _split(options: argparse.Namespace) -> int:
    from ..splits import find_cases, k_folds, original_folds, restrict_folds, shared_patients, write_folds

    if options.original and options.seed is not None:
        raise UsageError("--seed is for new folds (--k), not for --original")
    cases = options.cases or find_cases(options.data)
    patients = patients_of(options)
    warn_unknown_patients(patients, cases=cases)
    if options.original:
        folds, missing = restrict_folds(original_folds(), present=cases)
        known = {case for fold in original_folds() for case in fold.validation}
        if missing:
            warn(f"{len(missing)} of the paper's {len(known)} cases are missing: {', '.join(missing)}")
        if others := sorted(set(cases) - known):
            warn(f"{len(others)} cases are in none of the paper's folds and left out: {', '.join(others)}")
        for shared in shared_patients(folds, patients=patients):
            warn(str(shared))
    else:
        folds = k_folds(cases, k=options.k, seed=options.seed or 0, patients=patients)
    write_folds(options.output, folds)
    sizes = ", ".join(f"{len(fold.training)}/{len(fold.validation)}" for fold in folds)
    say(f"{options.output}: {len(folds)} folds, training/validation {sizes}")
    return OK


def _add_evaluate(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "evaluate", summary="print the paper's tables, write its figures 5 and 6", run=_evaluate
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--scores", metavar="CSV", type=file, help="scores per case, as 'evaluate' writes them")
    source.add_argument(
        "--predictions", metavar="DIR", type=folder, help="holds <case>.nii.gz or <case>/labelmap.nii.gz"
    )
    parser.add_argument(
        "--data", metavar="DIR", type=folder, help="holds <case>/segmentation.nii.gz, for --predictions"
    )
    parser.add_argument("--folds", metavar="JSON", type=file, help="folds of the cross-validation, for Table 1")
    add_patients(parser, purpose=", where names do not tell")
    add_labels_are(parser)
    parser.add_argument("--seed", metavar="S", type=count_from_zero, default=0, help="of the bootstrap (default 0)")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=output_folder, help="folder for scores, tables and figures"
    )


def _evaluate(options: argparse.Namespace) -> int:
    from ..evaluate import evaluate_scores, find_predictions, score_predictions, write_evaluation, write_pictures
    from ..experiment.case_scores import read_scores
    from ..experiment.paper_table import check_same_cases
    from ..splits import read_folds

    if options.predictions is not None and (options.data is None or options.output is None):
        raise UsageError("--predictions needs --data and -o")
    if options.scores is not None and options.data is not None:
        raise UsageError("--data goes with --predictions, not with --scores")
    if options.patients is not None and options.folds is None:
        raise UsageError("--patients goes with --folds: it tells which patients stand on both sides of one")
    patients = patients_of(options)
    folds = None if options.folds is None else read_folds(options.folds, patients=patients)
    if options.scores is not None:
        cases = read_scores(options.scores)
    else:
        predictions = find_predictions(options.predictions, data_dir=options.data)
        if folds is not None:
            check_same_cases(predictions, folds=folds)  # before the minutes that scoring takes
        cases = score_predictions(predictions, data_dir=options.data, tell=note)
    evaluation = evaluate_scores(
        cases, folds=folds, labels_are=options.labels_are, patients=patients, seed=options.seed
    )
    say(evaluation.to_text())
    if options.output is not None:
        write_evaluation(options.output, evaluation)
    if options.predictions is not None:
        write_pictures(options.output, evaluation, predictions=predictions, data_dir=options.data)
    if options.output is not None:
        note(f"{options.output}: scores, tables and figures")
    return OK


def _add_figures(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "figures", summary="draw the losses of all folds, the paper's figure 4", run=_figures
    )
    parser.add_argument(
        "--histories", metavar="DIR", type=folder, required=True, help="folder with history.fold_*.tsv or history*.csv"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=output_folder, required=True, help="folder for the figure"
    )


def _figures(options: argparse.Namespace) -> int:
    from ..figures import draw_losses, find_histories, save_figure

    histories = find_histories(options.histories)
    path = options.output / "figure4_loss.png"
    save_figure(path, draw_losses(histories))
    epochs = [len(history.epochs) for history in histories]
    say(f"{path}: epochs per fold {', '.join(map(str, epochs))}, mean {sum(epochs) / len(epochs):.1f}")
    return OK
