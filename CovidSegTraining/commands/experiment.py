"""The experiment's commands: `predict`, and what `prepare` and `fit` do when `--config` is an experiment's recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from CovidSegLib.commands.exit_codes import OK
from CovidSegLib.commands.parser import Parser, UsageError, add_command

from .common import (
    add_compute,
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
)

if TYPE_CHECKING:
    from ..experiment.config import Experiment
    from ..experiment.world import World
    from ..splits import Fold


def add_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Register the commands."""
    parser = add_command(commands, "predict", summary="label cases with a trained fold of an experiment", run=_predict)
    parser.add_argument("--run", metavar="RUN", type=folder, required=True, help="folder of a 'fit'")
    parser.add_argument("--data", metavar="DIR", type=folder, required=True, help="holds <case>/imaging.nii.gz")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=output_folder, required=True, help="folder for <case>.nii.gz"
    )
    parser.add_argument("--cases", metavar="NAME", nargs="+", help="default: those the fold was validated on")
    parser.add_argument("--checkpoint", choices=("best_loss", "last"), help="default: as the recipe says")
    add_compute(parser)


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Add what `fit` takes for an experiment only."""
    group = parser.add_argument_group("with an experiment's recipe as --config")
    group.add_argument("--fold", metavar="K", type=count_from_zero, help="fold to train, from 0")
    group.add_argument("--folds", metavar="JSON", type=file, help="the folds (default: the paper's)")
    add_patients(group, purpose=" that the folds were made with")
    group.add_argument("--data", metavar="DIR", type=folder, help="bring the cache up to date with these cases first")
    add_precision(group)


def refuse_experiment_options(options: argparse.Namespace) -> None:
    """Make sure that no option of `add_fit_options` was given together with a recipe of the product.

    Raises:
        UsageError: One was given.
    """
    names = ("fold", "folds", "patients", "data", "precision")
    _refuse(options, names, why="is for an experiment's recipe as --config")


def prepare_experiment(options: argparse.Namespace) -> int:
    """Run `prepare` for an experiment's recipe."""
    from ..experiment.cache import prepare_cases
    from ..experiment.config import read_experiment

    _refuse(options, ("phantoms",), why="is for the product's recipe")
    recipe = read_experiment(options.config)
    prepare_cases(
        options.data,
        cache_dir=options.output,
        settings=recipe.preprocessing,
        classes=recipe.network.classes,
        tell=say,
    )
    return OK


def fit_experiment(options: argparse.Namespace) -> int:
    """Run `fit` for an experiment's recipe."""
    from ..experiment.config import read_experiment
    from ..experiment.world import joined_world
    from ..splits import original_folds, read_folds

    _refuse(options, ("minutes", "init", "teacher"), why="is for the product's recipe")
    if options.fold is None:
        raise UsageError("--fold K is needed with an experiment's recipe")
    if options.patients is not None and options.folds is None:
        raise UsageError("--patients goes with --folds; the paper's folds are used as they are")
    recipe = read_experiment(options.config).with_precision(options.precision)
    folds = original_folds() if options.folds is None else read_folds(options.folds, patients=patients_of(options))
    if options.fold >= len(folds):
        raise UsageError(f"--fold {options.fold}: there are {len(folds)} folds, 0 to {len(folds) - 1}")
    use_threads(options.threads)
    with joined_world(options.device) as (world, device):
        _fit_fold(options, recipe=recipe, fold=folds[options.fold], world=world, device=device)
    return OK


def _fit_fold(options: argparse.Namespace, *, recipe: Experiment, fold: Fold, world: World, device: str) -> None:
    import torch
    from CovidSegLib.device import resolve_device

    from ..experiment.cache import load_prepared, prepare_cases
    from ..experiment.fit import ExperimentFit

    def tell(text: str) -> None:
        if world.rank == 0:
            say(text)

    settings, classes = recipe.preprocessing, recipe.network.classes
    device = resolve_device(device)  # before the minutes that preparing takes
    if options.data is not None and world.rank == 0:
        prepare_cases(options.data, cache_dir=options.cache, settings=settings, classes=classes, tell=tell)
    if world.size > 1:
        torch.distributed.barrier()
    cases = load_prepared(options.cache, names=(*fold.training, *fold.validation), settings=settings, classes=classes)
    run = ExperimentFit(
        options.output, cases=cases, fold=fold, fold_number=options.fold, recipe=recipe, device=device, world=world
    )
    run.run(tell=lambda line: tell(f"fold {options.fold}: {line}"))
    tell(f"{run.epoch} epochs, lowest loss {run.stopping.best_loss:.4f} -> {options.output}")


def _predict(options: argparse.Namespace) -> int:
    from ..experiment.config import read_experiment
    from ..experiment.predict import predict_cases
    from ..experiment.run_folder import progress_of, read_run

    use_threads(options.threads)
    names = options.cases or list(read_run(options.run)["origin"]["validation"])
    done = progress_of(options.run, recipe=read_experiment(options.run / "recipe.yaml"))
    if done is not None and not done.at_end:
        warn(
            f"{options.run}: stopped after epoch {done.epochs}, before its end; run 'covidseg-train fit' again to go on"
        )
    predict_cases(
        options.run,
        data_dir=options.data,
        names=names,
        output=options.output,
        device=options.device,
        checkpoint=options.checkpoint,
        tell=say,
    )
    return OK


def _refuse(options: argparse.Namespace, names: tuple[str, ...], *, why: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} {why}")
