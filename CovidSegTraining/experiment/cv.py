"""The whole experiment: all folds prepared, trained, predicted and evaluated; run again, it continues where it stopped.

A cross-validation has a folder:

recipe.yaml, folds.json      the recipe, and the folds it is run on
fold_K/                      the training run of a fold, see `run_folder`
predictions/<case>.nii.gz    each case, by the fold that has not seen it
evaluation/                  scores, tables, figures 4, 5 and 6
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from CovidSegLib.cases.run_lock import run_lock
from CovidSegLib.errors import InputError
from CovidSegLib.failures import explain
from CovidSegLib.labels import Label

from ..cache import key_of
from ..evaluate import Evaluation, LabelsAre, evaluate_scores, score_predictions, write_evaluation, write_pictures
from ..splits import Fold, find_cases, read_folds, write_folds
from ..whole_files import write_whole
from .config import Experiment
from .paper_table import COLUMNS, Sheet
from .run_folder import check_same_recipe, progress_of, read_run
from .variants import JOURNAL_STEPS, Variant

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Places:
    """The folders of an experiment.

    Attributes:
        data_dir: Holds `<case>/imaging.nii.gz` and `segmentation.nii.gz`.
        output: Folder of the cross-validations.
        cache_dir: Folder of the prepared cases; each way of preparing them has a subfolder.
    """

    data_dir: Path
    output: Path
    cache_dir: Path

    def run_of(self, variant: Variant) -> Path:
        """Return the folder of a cross-validation."""
        return self.output / variant.name

    def cache_of(self, recipe: Experiment) -> Path:
        """Return the folder of the cases prepared by this recipe."""
        settings = json.dumps([asdict(recipe.preprocessing), recipe.network.classes], sort_keys=True)
        return self.cache_dir / hashlib.sha256(settings.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class FoldJob:
    """A fold to train and predict; it can be pickled, and so be done in another process or on another machine."""

    variant: Variant
    number: int
    places: Places
    device: str

    @property
    def name(self) -> str:
        """The fold's name, for messages."""
        return f"{self.variant.name} fold {self.number}".strip()


@dataclass(frozen=True)
class Outcome:
    """How the job of this number in the sequence ended; `error` is None if it is done."""

    number: int
    error: Exception | None


#: Does all jobs, in any order, and yields the outcome of each as soon as it is known.
RunJobs = Callable[[Sequence[FoldJob]], Iterator[Outcome]]


def cross_validate(
    variants: Sequence[Variant],
    *,
    places: Places,
    device: str,
    run_jobs: RunJobs,
    labels_are: LabelsAre = "reference",
    patients: Mapping[str, str] | None = None,
    tell: Tell,
) -> dict[str, Evaluation]:
    """Prepare, train, predict and evaluate; whatever is complete is left as it is.

    If a fold fails, or the evaluation of a cross-validation, the others are done all the same.

    Args:
        variants: Which recipes to run on which folds.
        places: The folders; those to write to are made if need be.
        device: auto, cpu, cuda, cuda:N or mps.
        run_jobs: Does the folds, one after the other or on a cluster; see `cluster`.
        labels_are: What the predictions are scored against.
        patients: The patient of each case whose name does not tell.
        tell: Called with one line at a time.

    Returns:
        Scores and tables, by the name of the variant.

    Raises:
        InputError: Data, folds or recipe cannot be used, or the folder holds another experiment or is in use.
        Exception: The first error of a fold or an evaluation, after all others have been tried.
    """
    from .cache import prepare_cases

    _check_classes(variants)
    _check_cases(variants, data_dir=places.data_dir)
    places.output.mkdir(parents=True, exist_ok=True)
    with run_lock(places.output):
        for variant in variants:
            _begin(places.run_of(variant), variant=variant, patients=patients)
        for cache_dir, recipe in {places.cache_of(v.recipe): v.recipe for v in variants}.items():
            settings, classes = recipe.preprocessing, recipe.network.classes
            prepare_cases(places.data_dir, cache_dir=cache_dir, settings=settings, classes=classes, tell=tell)
        jobs = [FoldJob(v, number, places, device) for v in variants for number in range(len(v.folds))]
        waiting = {variant.name: len(variant.folds) for variant in variants}
        evaluations, errors = {}, []
        for outcome in run_jobs(jobs):
            job = jobs[outcome.number]
            if outcome.error is not None:
                tell(f"{job.name}: failed: {explain(outcome.error)}")
                errors.append(outcome.error)
                continue
            waiting[job.variant.name] -= 1
            if waiting[job.variant.name]:
                continue
            try:
                evaluations[job.variant.name] = _evaluate(
                    job.variant, places=places, labels_are=labels_are, patients=patients, tell=tell
                )
            except Exception as error:
                tell(f"{job.variant.name} evaluation: failed: {explain(error)}".strip())
                errors.append(error)
        if errors:
            raise errors[0]
        return {variant.name: evaluations[variant.name] for variant in variants}


def run_fold(job: FoldJob, tell: Tell) -> None:
    """Train a fold, from its last checkpoint if there is one, and predict its held-out cases, unless that is done.

    Raises:
        CovidSegError: As `ExperimentFit` and `predict_cases`.
        OSError: The disk is full, for instance.
    """
    from .cache import load_prepared
    from .fit import ExperimentFit
    from .predict import predict_cases

    def say(text: str) -> None:
        tell(f"{job.name}: {text}")

    recipe, fold, places = job.variant.recipe, job.variant.folds[job.number], job.places
    folder, cache_dir = places.run_of(job.variant), places.cache_of(recipe)
    run = folder / f"fold_{job.number}"
    predictions = _predictions(folder, folds=[fold])
    progress = progress_of(run, recipe=recipe)
    history_ends = progress is not None and progress.at_end
    # The history is asked first: where the fold is complete, neither volumes nor checkpoints need to be read.
    if not left_to_predict(predictions, final_weights=history_ends):
        _check_origin(run, fold=fold, cache_dir=cache_dir)
        say("already complete")
        return
    settings, classes = recipe.preprocessing, recipe.network.classes
    cases = load_prepared(cache_dir, names=(*fold.training, *fold.validation), settings=settings, classes=classes)
    fit = ExperimentFit(run, cases=cases, fold=fold, fold_number=job.number, recipe=recipe, device=job.device)
    # A history without its checkpoints is trained again, and checkpoints without their history are not trusted.
    names = left_to_predict(predictions, final_weights=history_ends and fit.finished)
    for name in names:
        predictions[name].unlink(missing_ok=True)  # or it would be kept if this is killed between two predictions
    fit.run(tell=say)
    del cases, fit  # the volumes leave the GPU
    predict_cases(
        run, data_dir=places.data_dir, names=names, output=folder / "predictions", device=job.device, tell=say
    )


def left_to_predict(predictions: Mapping[str, Path], *, final_weights: bool) -> list[str]:
    """Return the cases without a prediction by the fold's final weights; unless the run has these by now, all cases."""
    return [name for name, path in predictions.items() if not (final_weights and path.exists())]


def summary_sheet(evaluations: Mapping[str, Evaluation]) -> Sheet:
    """Return one table of several cross-validations, Dice only."""
    rows = []
    for name, evaluation in evaluations.items():
        assert evaluation.table is not None
        regions = ("lungs", "infection")
        averages = [float(evaluation.table[-1, COLUMNS.index((region, "DSC"))]) for region in regions]
        overall = {line.region: line for line in evaluation.overall if line.score == "DSC"}
        values = [
            *averages,
            *(overall[region].mean.value for region in regions),
            *(overall[region].median.value for region in regions),
        ]
        counts = (len(evaluation.table) - 1, len(evaluation.cases))
        rows.append((name, *map(str, counts), *("n/a" if math.isnan(value) else f"{value:.3f}" for value in values)))
    notes = ["AVG: mean of the folds' medians, as in the paper's Table 1; mean and median: over all cases."]
    if set(JOURNAL_STEPS) <= set(evaluations):
        read_off = ", ".join(f"{name} {value:.2f}" for name, value in JOURNAL_STEPS.items())
        notes.append(f"The journal version's medians of the infection, read off its plot: {read_off}.")
    notes += dict.fromkeys(note for evaluation in evaluations.values() for note in evaluation.notes)
    return Sheet(
        "Dice of all runs",
        (
            *("run", "folds", "cases", "lungs AVG", "infection AVG", "lungs mean", "infection mean"),
            *("lungs median", "infection median"),
        ),
        tuple(rows),
        tuple(notes),
    )


def _check_classes(variants: Sequence[Variant]) -> None:
    """Make sure, before days of training, that the predictions can be scored."""
    for variant in variants:
        if (classes := variant.recipe.network.classes) > len(Label):
            raise InputError(
                f"network.classes is {classes}, but only {len(Label)} classes are scored (0 background, 1 left lung, "
                "2 right lung, 3 infection): lower it, or train with 'covidseg-train fit' and score by other means"
            )


def _check_cases(variants: Sequence[Variant], *, data_dir: Path) -> None:
    present = set(find_cases(data_dir))
    for variant in variants:
        for number, fold in enumerate(variant.folds):
            if missing := sorted({*fold.training, *fold.validation} - present):
                raise InputError(
                    f"{data_dir}: case '{missing[0]}' of fold_{number} is not there ({len(missing)} in all); "
                    "make folds of what is there with 'covidseg-train split'"
                )


def _begin(folder: Path, *, variant: Variant, patients: Mapping[str, str] | None) -> None:
    """Write recipe and folds; if a fold has begun in the folder, make sure that they are the same as before."""
    import yaml

    recipe_file, folds_file = folder / "recipe.yaml", folder / "folds.json"
    # As long as no fold has begun, a recipe that does not fit the cases can be corrected without changing the folder.
    begun = any(folder.glob("fold_*/run.json"))
    if begun and recipe_file.exists():
        check_same_recipe(folder, variant.recipe)
    if begun and folds_file.exists() and tuple(read_folds(folds_file, patients=patients)) != variant.folds:
        raise InputError(f"{folder}: begun with other folds (folds.json there); choose another folder")
    write_whole(recipe_file, yaml.safe_dump(variant.recipe.to_plain(), sort_keys=False).encode())
    write_folds(folds_file, variant.folds)


def _check_origin(run: Path, *, fold: Fold, cache_dir: Path) -> None:
    """Make sure that a finished fold was made from the cases as they are now."""
    origin = read_run(run)["origin"]
    for side in ("training", "validation"):
        for name in getattr(fold, side):
            if key_of(cache_dir / f"{name}.npz") != origin[side][name]:
                raise InputError(f"{run}: case '{name}' has changed since; choose another folder")


def _predictions(folder: Path, *, folds: Sequence[Fold]) -> dict[str, Path]:
    names = sorted(name for fold in folds for name in fold.validation)
    return {name: folder / "predictions" / f"{name}.nii.gz" for name in names}


def _evaluate(
    variant: Variant, *, places: Places, labels_are: LabelsAre, patients: Mapping[str, str] | None, tell: Tell
) -> Evaluation:
    """Write scores, tables and figures; scoring, which takes minutes, is left out if no prediction is newer."""
    from ..figures import draw_losses, read_history, save_figure
    from .case_scores import read_scores

    folder = places.run_of(variant)
    output, predictions = folder / "evaluation", _predictions(folder, folds=variant.folds)
    scores, newest = output / "scores.csv", max(path.stat().st_mtime_ns for path in predictions.values())
    if scores.exists() and scores.stat().st_mtime_ns > newest:
        cases = read_scores(scores)
    else:
        cases = score_predictions(predictions, data_dir=places.data_dir, tell=tell)
    evaluation = evaluate_scores(cases, folds=variant.folds, labels_are=labels_are, patients=patients)
    write_evaluation(output, evaluation)
    # By name and not by a search, because other cross-validations may lie in the same folder.
    histories = [folder / f"fold_{number}" / f"history.fold_{number}.tsv" for number in range(len(variant.folds))]
    save_figure(output / "figure4_loss.png", draw_losses([read_history(path) for path in histories]))
    write_pictures(output, evaluation, predictions=predictions, data_dir=places.data_dir)
    return evaluation
