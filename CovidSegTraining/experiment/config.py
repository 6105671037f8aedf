"""The recipe of an experiment: every setting of the paper's training, from one YAML file.

No setting has a default, but for the options of a network, which `networks` explains. Axes are i, j, k here, as in the
paper.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from ..networks import build_experiment_network, check_patch
from ..settings import SettingsError, from_plain, read_yaml
from .checks import conditions

PAPER = Path(__file__).parents[1] / "configs" / "paper.yaml"
#: The single key of a recipe; other settings files are of the product's training.
TOP = "experiment"

Precision = Literal["float32", "bfloat16"]
Range = tuple[float, float]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a whole volume, in this order (paper, section "Preprocessing").

    Attributes:
        orient: Whether volumes are reoriented to the patient's axes, as their header gives them, or taken as stored.
        clip_hu: Range that HU are clipped to; null: no clipping.
        grey_levels: Each volume's own range is mapped to whole grey levels from 0 to this one; null: no mapping.
        spacing_ijk_mm: Voxel spacing after resampling; null: no resampling.
        interpolation: How the image is resampled; it is not smoothed before.
        label_threshold: Labels are resampled one by one, linearly; a voxel gets a label from this share on. Applies
            to the way back to the CT's grid, too.
        z_score: Whether each volume is shifted and scaled to mean 0 and standard deviation 1.
    """

    orient: bool
    clip_hu: Range | None
    grey_levels: int | None
    spacing_ijk_mm: tuple[float, float, float] | None
    interpolation: Literal["cubic", "linear"]
    label_threshold: float
    z_score: bool


@dataclass(frozen=True)
class Mirror:
    """Flips, each axis by itself; `swaps_sides` exchanges the lungs' labels after a flip of i (left-right)."""

    probability_ijk: tuple[float, float, float]
    swaps_sides: bool


@dataclass(frozen=True)
class TwoSided:
    """A factor drawn from `below` or `above`, each half of the time."""

    probability: float
    below: Range
    above: Range


@dataclass(frozen=True)
class Brightness:
    """A factor of the whole volume."""

    probability: float
    factor: Range


@dataclass(frozen=True)
class Noise:
    """Gaussian noise; its standard deviation is drawn per volume."""

    probability: float
    std: Range


@dataclass(frozen=True)
class Elastic:
    """Uniform noise in -1..1 per voxel and axis, smoothed by a Gaussian of `sigma` voxels, times `alpha` voxels."""

    probability: float
    alpha: Range
    sigma: Range


@dataclass(frozen=True)
class Rotation:
    """An angle about each axis, uniform in plus or minus `degrees_ijk`."""

    probability: float
    degrees_ijk: tuple[float, float, float]


@dataclass(frozen=True)
class Augmentation:
    """Random changes, in this order; the last three are one interpolation (paper, section "Data augmentation")."""

    mirror: Mirror
    contrast: TwoSided
    brightness: Brightness
    gamma: TwoSided
    noise: Noise
    elastic: Elastic
    rotation: Rotation
    scale: TwoSided
    interpolation: Literal["cubic", "linear"]


@dataclass(frozen=True)
class Patches:
    """Random crops, one per volume and anywhere in it; small volumes are padded with 0 (image and label)."""

    size_ijk: Size
    batch: int

    @property
    def size_kji(self) -> Size:
        """Size of a crop in numpy's order."""
        return self.size_ijk[::-1]


@dataclass(frozen=True)
class Network:
    """A network of `networks`, its output channels, and its own options."""

    name: str
    classes: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """An overlap loss plus cross-entropy, see `loss`.

    Attributes:
        overlap: "tversky_sum": number of classes minus the sum of their Tversky indices (the paper);
            "dice_mean": one minus the mean over the classes.
        overlap_weight: Factor of the overlap loss.
        crossentropy_weight: Factor of the cross-entropy.
        false_negatives: Weight in the index; half and half is the Dice coefficient.
        false_positives: Weight in the index.
        smooth: Added to numerator and denominator.
    """

    overlap: Literal["tversky_sum", "dice_mean"]
    overlap_weight: float
    crossentropy_weight: float
    false_negatives: float
    false_positives: float
    smooth: float


@dataclass(frozen=True)
class Adam:
    """The optimiser; `decay` divides the rate by 1 + decay * batches so far, as Keras's argument of this name does."""

    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    decay: float


@dataclass(frozen=True)
class Plateau:
    """When the learning rate falls: Keras's ReduceLROnPlateau on the training loss."""

    factor: float
    patience: int
    min_delta: float
    cooldown: int
    minimum: float


@dataclass(frozen=True)
class Training:
    """Length, validation and outcome of a training run.

    Attributes:
        epochs: Largest number of epochs.
        batches_per_epoch: Training batches per epoch; after each epoch, its loss decides on learning rate and end.
        plateau: When the learning rate falls; null: it does not depend on the loss.
        early_stopping_patience: Training ends after so many epochs without a lower training loss; null: never early.
        validation_crops: Random crops of each held-out case per epoch; their loss is recorded and decides nothing.
        validation_augmented: Whether these crops are augmented (the paper's text) or not (its code).
        checkpoint_rule: Which weights predict: those with the lowest training loss (journal version) or the last ones
            (preprint). Both are kept.
        precision: Precision of the network's multiplications; newer NVIDIA GPUs compute float32 convolutions in TF32.
        seed: Seed of weights, crops and augmentation.
    """

    epochs: int
    batches_per_epoch: int
    plateau: Plateau | None
    early_stopping_patience: int | None
    validation_crops: int
    validation_augmented: bool
    checkpoint_rule: Literal["best_loss", "last"]
    precision: Precision
    seed: int


@dataclass(frozen=True)
class Prediction:
    """Voxels that neighbouring patches share; the last one of a row is shifted back to end at the border."""

    overlap_ijk: Size


@dataclass(frozen=True)
class Experiment:
    """A recipe; `augmentation` null means plain random crops."""

    preprocessing: Preprocessing
    augmentation: Augmentation | None
    patches: Patches
    network: Network
    loss: Loss
    optimizer: Adam
    training: Training
    prediction: Prediction

    def to_plain(self) -> dict[str, Any]:
        """Return the recipe as YAML and JSON know it, lists instead of tuples; `experiment_from` reads it back."""
        return {TOP: json.loads(json.dumps(asdict(self)))}

    def with_precision(self, precision: Precision | None) -> Experiment:
        """Return the recipe trained with another precision; None leaves it as it is."""
        return self if precision is None else replace(self, training=replace(self.training, precision=precision))


def read_experiment(path: Path | None = None) -> Experiment:
    """Return the recipe of a YAML file, or the paper's.

    Raises:
        SettingsError: The file is missing or no recipe, or a key is unknown, missing, of the wrong type or impossible.
    """
    path = path or PAPER
    try:
        return experiment_from(read_yaml(path))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def is_experiment(path: Path | None) -> bool:
    """Tell whether a settings file is an experiment's recipe; whatever else is wrong with it is found on reading."""
    if path is None:
        return False
    try:
        values = read_yaml(path)
    except SettingsError:
        return False
    return isinstance(values, dict) and TOP in values


def experiment_from(values: Any) -> Experiment:
    """Return the recipe in plain values.

    Raises:
        SettingsError: As for `read_experiment`.
    """
    if not isinstance(values, dict) or list(values) != [TOP]:
        raise SettingsError(f"a recipe has the single key '{TOP}'")
    recipe = cast(Experiment, from_plain(Experiment, values[TOP], key=TOP))
    for key, fits, wanted in conditions(recipe):
        if not fits:
            raise SettingsError(f"{TOP}.{key} must be {wanted}")
    try:
        _check_network(recipe.network)
    except SettingsError as error:
        raise SettingsError(f"{TOP}: {error}") from error
    check_patch(recipe.network.name, recipe.patches.size_ijk, key=f"{TOP}.patches.size_ijk")
    return recipe


def _check_network(network: Network) -> None:
    """Build the network without memory for its weights, to find wrong options at once."""
    import torch

    with torch.device("meta"):
        build_experiment_network(network.name, classes=network.classes, options=network.options)
