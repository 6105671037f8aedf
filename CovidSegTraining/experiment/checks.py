"""Which values of an experiment's recipe are possible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..settings import SEEDS_BELOW, is_range

if TYPE_CHECKING:
    from .config import Augmentation, Experiment, TwoSided


def conditions(recipe: Experiment) -> Iterator[tuple[str, bool, str]]:
    """Give key, whether its value is possible, and what it must be. Comparisons with a NaN are false: refused."""
    pre, patches, loss, adam, training = (
        recipe.preprocessing,
        recipe.patches,
        recipe.loss,
        recipe.optimizer,
        recipe.training,
    )
    if pre.clip_hu is not None:
        # All values would become one, and nothing could be learnt.
        fits = is_range(pre.clip_hu, below=1e9) and pre.clip_hu[0] < pre.clip_hu[1]
        yield "preprocessing.clip_hu", fits, "two numbers, the lower first"
    yield "preprocessing.grey_levels", pre.grey_levels is None or pre.grey_levels >= 1, "at least 1, or null"
    spacing = pre.spacing_ijk_mm or (1.0,)
    yield "preprocessing.spacing_ijk_mm", all(0 < mm <= 100 for mm in spacing), "above 0 and at most 100 each"
    yield "preprocessing.label_threshold", 0 < pre.label_threshold <= 1, "above 0 and at most 1"
    if recipe.augmentation is not None:
        yield from _augmentation_conditions(recipe.augmentation, oriented=pre.orient)
    yield "patches.batch", patches.batch >= 1, "at least 1"
    yield "network.classes", 2 <= recipe.network.classes <= 255, "2 to 255"
    for name in ("overlap_weight", "crossentropy_weight", "false_negatives", "false_positives"):
        yield f"loss.{name}", 0 <= getattr(loss, name) < 1e9, "0 or above"
    yield "loss.overlap_weight", loss.overlap_weight + loss.crossentropy_weight > 0, "above 0 if the other weight is 0"
    yield "loss.smooth", 0 < loss.smooth <= 1, "above 0 and at most 1"
    yield "optimizer.learning_rate", 0 < adam.learning_rate <= 10, "above 0 and at most 10"
    yield "optimizer.betas", all(0 <= beta < 1 for beta in adam.betas), "from 0 to below 1 each"
    yield "optimizer.epsilon", 0 < adam.epsilon <= 1, "above 0 and at most 1"
    yield "optimizer.decay", 0 <= adam.decay <= 1, "0 to 1"
    for name in ("epochs", "batches_per_epoch", "validation_crops"):
        yield f"training.{name}", getattr(training, name) >= 1, "at least 1"
    patience = training.early_stopping_patience
    yield "training.early_stopping_patience", patience is None or patience >= 1, "at least 1, or null"
    yield "training.seed", 0 <= training.seed < SEEDS_BELOW, "0 or above, and below 2^63"
    if training.plateau is not None:
        plateau = training.plateau
        yield "training.plateau.factor", 0 < plateau.factor < 1, "between 0 and 1"
        yield "training.plateau.patience", plateau.patience >= 1, "at least 1"
        yield "training.plateau.min_delta", 0 <= plateau.min_delta < 1e9, "0 or above"
        yield "training.plateau.cooldown", plateau.cooldown >= 0, "0 or above"
        yield "training.plateau.minimum", 0 <= plateau.minimum <= adam.learning_rate, "0 to the learning rate"
    overlap = zip(recipe.prediction.overlap_ijk, patches.size_ijk, strict=True)
    yield "prediction.overlap_ijk", all(0 <= o < p for o, p in overlap), "from 0 to below patches.size_ijk"


def _augmentation_conditions(augmentation: Augmentation, *, oriented: bool) -> Iterator[tuple[str, bool, str]]:
    mirror = augmentation.mirror
    yield "augmentation.mirror.probability_ijk", all(0 <= p <= 1 for p in mirror.probability_ijk), "0 to 1 each"
    yield (
        "augmentation.mirror.swaps_sides",
        oriented or not mirror.swaps_sides,
        "false unless preprocessing.orient is true: as stored, no axis is left-right for sure",
    )
    for name in ("contrast", "brightness", "gamma", "noise", "elastic", "rotation", "scale"):
        probability = getattr(augmentation, name).probability
        yield f"augmentation.{name}.probability", 0 <= probability <= 1, "0 to 1"
    for name in ("contrast", "gamma", "scale"):
        factor: TwoSided = getattr(augmentation, name)
        for side in ("below", "above"):
            bounds = getattr(factor, side)
            yield f"augmentation.{name}.{side}", is_range(bounds) and bounds[0] > 0, "two numbers above 0, in order"
    ranges = {
        "brightness.factor": augmentation.brightness.factor,
        "noise.std": augmentation.noise.std,
        "elastic.alpha": augmentation.elastic.alpha,
        "elastic.sigma": augmentation.elastic.sigma,
    }
    for key, bounds in ranges.items():
        yield f"augmentation.{key}", is_range(bounds) and bounds[0] >= 0, "two numbers from 0 on, in order"
    yield "augmentation.elastic.sigma", augmentation.elastic.sigma[0] > 0, "above 0"
    degrees = augmentation.rotation.degrees_ijk
    yield "augmentation.rotation.degrees_ijk", all(0 <= angle <= 180 for angle in degrees), "0 to 180 each"
