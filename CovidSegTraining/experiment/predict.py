"""Label cases with a trained fold: predict overlapping patches, average, take the likeliest class, restore the grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from CovidSegLib.cases.files import write_nifti_checked
from CovidSegLib.cases.folder import new_file
from CovidSegLib.device import resolve_device
from CovidSegLib.errors import ModelError

from ..checkpoint import read_state
from ..networks import build_experiment_network
from .cache import PreparedVolume, prepare_volume, resize_labels
from .config import Experiment, read_experiment
from .fit import autocast
from .run_folder import BEST, LAST, read_run

if TYPE_CHECKING:
    import torch


def predict_cases(
    run: Path,
    *,
    data_dir: Path,
    names: Sequence[str],
    output: Path,
    device: str,
    checkpoint: str | None = None,
    tell: Callable[[str], object],
) -> None:
    """Write `<case>.nii.gz` (uint8, the CT's grid) for each case.

    Args:
        run: Folder of a training run.
        data_dir: Holds `<case>/imaging.nii.gz`.
        names: Of the cases.
        output: Folder for the labelmaps, made if need be.
        device: auto, cpu, cuda, cuda:N or mps.
        checkpoint: "best_loss" or "last"; None: as the recipe says.
        tell: Called with a line per case.

    Raises:
        DeviceError: The device is not there.
        InputError: The run or a CT cannot be used.
        ModelError: There are no weights, they are damaged, or are of another network.
    """
    import torch

    recipe = read_experiment(run / "recipe.yaml")
    on = torch.device(resolve_device(device))
    network = load_network(run, recipe=recipe, device=on, checkpoint=checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        volume = prepare_volume(data_dir / name, settings=recipe.preprocessing)
        labels = predict_labels(volume.image_kji, network=network, recipe=recipe, device=on)
        path = output / f"{name}.nii.gz"
        with new_file(path) as partial:
            write_nifti_checked(partial, restore(labels, volume=volume, recipe=recipe), geometry=volume.geometry)
        tell(f"{name}: {path}")


def load_network(
    run: Path, *, recipe: Experiment, device: torch.device, checkpoint: str | None = None
) -> torch.nn.Module:
    """Return the network of a training run, ready to predict.

    Raises:
        InputError: The folder holds no run.
        ModelError: There are no weights, they are damaged, or are of another network than the recipe's.
    """
    read_run(run)
    path = run / (BEST if (checkpoint or recipe.training.checkpoint_rule) == "best_loss" else LAST)
    other, name = (LAST, "last") if path.name == BEST else (BEST, "best_loss")
    remedy = "delete the run's folder and train again"
    if (run / other).exists():
        remedy = f"give 'predict' --checkpoint {name}, or {remedy}"
        state = read_state(path, remedy=remedy, missing=remedy)
    else:
        state = read_state(path, remedy=remedy)
    settings = recipe.network
    network = build_experiment_network(settings.name, classes=settings.classes, options=settings.options)
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        raise ModelError(
            f"{path}: its weights are not of the network in recipe.yaml ({settings.name}, {settings.classes} classes); "
            "put the recipe back that the run was trained with"
        ) from error
    return network.to(device).eval()


def predict_labels(
    image_kji: np.ndarray, *, network: torch.nn.Module, recipe: Experiment, device: torch.device
) -> np.ndarray:
    """Return labels (k, j, i) uint8 of a preprocessed image.

    The softmax of a voxel is averaged over all patches that cover it. (The paper's code averages two patches at a time,
    the running mean with the next patch, which gives later patches more weight.)

    Args:
        image_kji: (k, j, i) float32.
        network: On the device, in evaluation mode.
        recipe: Patches, overlap and precision.
        device: Where to run.
    """
    import torch
    from monai.inferers import sliding_window_inference

    def probabilities(patch: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision=recipe.training.precision):
            logits = network(patch)
        return torch.softmax(logits.float(), dim=1)

    with torch.inference_mode():
        summed = sliding_window_inference(
            torch.from_numpy(image_kji)[None, None].to(device),
            roi_size=recipe.patches.size_kji,
            sw_batch_size=1,
            predictor=probabilities,
            overlap=overlap_shares(recipe),
            mode="constant",
            padding_mode="constant",
        )
        labels = summed[0].argmax(dim=0)  # type: ignore[index, union-attr]
    return np.asarray(labels.cpu().numpy(), dtype=np.uint8)


def overlap_shares(recipe: Experiment) -> list[float]:
    """Return the overlap along k, j, i as a share of the patch."""
    overlap = zip(recipe.prediction.overlap_ijk[::-1], recipe.patches.size_kji, strict=True)
    # Slightly less, because MONAI rounds the step between patches down, and rounding errors must not shorten it.
    return [max(voxels / size - 1e-9, 0.0) for voxels, size in overlap]


def restore(labels_kji: np.ndarray, *, volume: PreparedVolume, recipe: Experiment) -> np.ndarray:
    """Return labels on the CT's own grid (k, j, i), resized label by label."""
    restored = np.zeros(volume.geometry.shape_kji, dtype=np.uint8)
    view = restored if volume.orientation is None else volume.orientation.view(restored)
    view[:] = resize_labels(labels_kji, shape_kji=view.shape, threshold=recipe.preprocessing.label_threshold)
    return restored
